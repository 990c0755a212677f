//! Requests to a store as they go over the wire, counted by how they end. What fails is made again by the client, which says
//! nothing of it: each attempt counts here.

use async_trait::async_trait;
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService, ReqwestConnector,
};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// What all clients of a bucket have counted.
#[derive(Clone, Debug)]
pub struct Attempts {
    by_outcome: IntCounterVec,
    answered: IntCounter,
    refused: IntCounter,
    unavailable: IntCounter,
    broken: IntCounter,
    torn: IntCounter,
}

impl Attempts {
    /// # Errors
    /// When the name of a metric is not legal, which the tests rule out.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let by_outcome = IntCounterVec::new(
            Opts::new(
                "gnomon_object_store_attempts_total",
                "Requests to the object store as they went over the wire, by outcome: answered, refused (4xx), \
                 unavailable (429 and 5xx), broken (no answer), torn (the answer's body ended early). All but the first \
                 two are made again, within a budget.",
            ),
            &["outcome"],
        )?;
        let of = |outcome: &str| by_outcome.with_label_values(&[outcome]);
        Ok(Self {
            answered: of("answered"),
            refused: of("refused"),
            unavailable: of("unavailable"),
            broken: of("broken"),
            torn: of("torn"),
            by_outcome,
        })
    }

    /// Shows them.
    ///
    /// # Errors
    /// When `registry` has them already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.by_outcome.clone()))
    }

    /// Attempts that came to nothing, and were made again as far as the budget goes.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.unavailable.get() + self.broken.get() + self.torn.get()
    }
}

impl HttpConnector for Attempts {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Counted {
            client: ReqwestConnector::default().connect(options)?,
            attempts: self.clone(),
        }))
    }
}

#[derive(Debug)]
struct Counted {
    client: HttpClient,
    attempts: Attempts,
}

#[async_trait]
impl HttpService for Counted {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let attempts = &self.attempts;
        let response = self
            .client
            .execute(request)
            .await
            .inspect_err(|_| attempts.broken.inc())?;
        let status = response.status();
        let outcome = if status.is_server_error() || status.as_u16() == 429 {
            &attempts.unavailable
        } else if status.is_client_error() {
            &attempts.refused
        } else {
            &attempts.answered
        };
        outcome.inc();
        let torn = attempts.torn.clone();
        Ok(response.map(|body| {
            let body = body.map_err(move |error| {
                torn.inc();
                error
            });
            HttpResponseBody::new(body)
        }))
    }
}
