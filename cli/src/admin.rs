//! The admin listener, for loopback only: `/metrics`, `/readyz`, and the store's API where the store is in the process.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use sluice_proxy::Live;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} (`server.admin_listen`): {error}"))
}

pub async fn serve(listener: TcpListener, live: Arc<Live>, store: Router) {
    let router = Router::new().route("/metrics", get(metrics)).route("/readyz", get(ready)).with_state(live);
    let router = router.merge(store);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin listener ended");
    }
}

async fn metrics(State(live): State<Arc<Live>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], live.render_metrics())
}

async fn ready(State(live): State<Arc<Live>>) -> impl IntoResponse {
    let readiness = live.readiness();
    let body = serde_json::json!({
        "ready": readiness.ready, "epoch": readiness.epoch, "reason": readiness.reason,
        "estimates_tokens": readiness.estimates_tokens,
    });
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string())
}
