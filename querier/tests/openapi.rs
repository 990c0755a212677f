//! The OpenAPI document says what there is. (That it has all paths, and no others, is a test beside it.)

#![allow(clippy::unwrap_used)]

mod support;

use axum::body::Body;
use gnomon_model::yaml;
use http::{Method, Request, StatusCode, header};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use support::{Cluster, example};
use tower::ServiceExt;

/// What other parts of a process serve (`/cluster` is held against its routes beside them).
const ELSEWHERE: [&str; 2] = ["/write", "/cluster/"];

async fn document(cluster: &Cluster, version: &str) -> Value {
    let request = Request::get(format!("/api/v1/openapi.yaml{version}"));
    let response = cluster
        .router()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers();
    assert_eq!(headers[header::CONTENT_TYPE], "application/yaml; charset=utf-8");
    assert_eq!(headers[header::CACHE_CONTROL], "no-cache, no-store, must-revalidate");
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    json(&yaml::parse(&text).unwrap_or_else(|e| panic!("{e}")))
}

/// Whatever is no list or map becomes a text.
fn json(node: &yaml::Node) -> Value {
    match &node.value {
        yaml::Value::Null => Value::Null,
        yaml::Value::Scalar(scalar) => scalar.text.clone().into(),
        yaml::Value::List(items) => items.iter().map(json).collect(),
        yaml::Value::Map(entries) => entries
            .iter()
            .map(|entry| (entry.0.text.clone(), json(&entry.1)))
            .collect(),
    }
}

/// Paths, with their methods in capitals.
fn operations(document: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let paths = document["paths"].as_object().unwrap();
    let methods = |item: &Value| item.as_object().unwrap().keys().map(|m| m.to_uppercase()).collect();
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

/// The methods that a path takes, beside OPTIONS; none where there is no such path.
async fn served(cluster: &Cluster, path: &str) -> BTreeSet<String> {
    let path = format!("/api/v1{}", path.replace("{name}", "job"));
    let request = Request::builder().method(Method::TRACE).uri(path);
    let request = request.body(Body::empty()).unwrap();
    let response = cluster.router().oneshot(request).await.unwrap();
    let allowed = response.headers().get(header::ALLOW);
    let allowed = allowed.map_or("", |value| value.to_str().unwrap());
    let methods = allowed.split(", ").filter(|m| !m.is_empty() && *m != "OPTIONS");
    methods.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_take_the_methods_that_are_written() {
    let cluster = example();
    let newer = document(&cluster, "?openapi_version=3.2").await;
    for (path, methods) in operations(&newer) {
        if !ELSEWHERE.iter().any(|other| path.starts_with(other)) {
            assert_eq!(served(&cluster, &path).await, methods, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_version_is_the_default_and_lacks_what_it_cannot_say() {
    let mut cluster = example();
    cluster.web.external_url = "https://x.example/gnomon/".into();
    let (older, newer) = (
        document(&cluster, "").await,
        document(&cluster, "?openapi_version=3.2.0").await,
    );
    assert_eq!(older, document(&cluster, "?openapi_version=3.1").await);
    assert_eq!(
        (&older["openapi"], &newer["openapi"]),
        (&"3.1.0".into(), &"3.2.0".into())
    );
    assert_eq!(older["servers"][0]["url"], "https://x.example/gnomon/api/v1");
    assert_eq!(older["info"]["version"], "0.1.0");
    let mut missing = operations(&newer);
    missing.retain(|path, _| !operations(&older).contains_key(path));
    assert_eq!(missing.into_keys().collect::<Vec<_>>(), ["/notifications/live"]);
}

/// Every `$ref`.
fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_lead_somewhere_and_parts_are_used() {
    let cluster = example();
    for version in ["", "?openapi_version=3.2"] {
        let document = document(&cluster, version).await;
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for (kind, parts) in document["components"].as_object().unwrap() {
            for name in parts.as_object().unwrap().keys() {
                let reference = format!("#/components/{kind}/{name}");
                assert!(found.contains(&reference.as_str()), "{reference} is not used");
            }
        }
        let tags: BTreeSet<_> = document["tags"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tag| &tag["name"])
            .map(Value::to_string)
            .collect();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                assert!(
                    ids.insert(operation["operationId"].to_string()),
                    "{path}: its id is taken"
                );
                assert!(
                    tags.contains(&operation["tags"][0].to_string()),
                    "{path}: its tag is unknown"
                );
                assert!(
                    operation["responses"]["default"].is_object(),
                    "{path}: errors are not described"
                );
            }
        }
        let item = &document["paths"]["/label/{name}/values"]["get"]["parameters"];
        let first = item[0]["$ref"].as_str().unwrap();
        assert_eq!(document.pointer(&first[1..]).unwrap()["in"], "path");
    }
}
