//! Something to scrape.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use parking_lot::Mutex;
use std::sync::Arc;

/// Says what it is told to, at any path.
pub struct Exporter {
    pub address: String,
    text: Arc<Mutex<String>>,
}

impl Exporter {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address").to_string();
        let text = Arc::new(Mutex::new(String::new()));
        let say = |State(text): State<Arc<Mutex<String>>>| async move {
            ([("content-type", "text/plain; version=0.0.4")], text.lock().clone())
        };
        let routes = Router::new().route("/metrics", get(say)).with_state(Arc::clone(&text));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, text }
    }

    pub fn say(&self, exposition: &str) {
        exposition.clone_into(&mut self.text.lock());
    }
}
