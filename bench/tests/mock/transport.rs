//! What carries the answers: HTTP/2, TLS and WebSocket.

use crate::client::{start, streamed};
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use sluice_bench::mock::{Mock, Script};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::Message;

fn chat(uri: &str, script: &str) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(streamed("a b c d").to_string()));
    Request::post(uri).header("x-mock", script).body(body).unwrap()
}

#[tokio::test]
async fn http2_is_spoken_to_who_begins_with_it() {
    let mock = start().await;
    let socket = TcpStream::connect(mock.addr).await.unwrap();
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/v1/chat/completions?a=%20b", mock.addr);
    let answer = client.send_request(chat(&uri, "{}")).await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    let kept = mock.request("GET", "/mock/requests", "", "").await.json();
    assert_eq!((&kept[0]["version"], &kept[0]["path"]), (&json!("HTTP/2.0"), &json!("/v1/chat/completions?a=%20b")));

    // A stream that breaks takes no other with it; a reset takes the connection.
    let broken = client.send_request(chat(&uri, r#"{"fault": "close_mid_stream"}"#)).await.unwrap();
    assert!(broken.into_body().collect().await.is_err());
    assert!(client.send_request(chat(&uri, r#"{"fault": "close_before_header"}"#)).await.is_err());
    assert_eq!(client.send_request(chat(&uri, "{}")).await.unwrap().status(), 200);
    let stalled = client.send_request(chat(&uri, r#"{"fault": "stall_mid_stream"}"#)).await.unwrap();
    drop(stalled);
    mock.wait_for(|stats| stats["cancelled"] == 1).await;
    assert!(client.send_request(chat(&uri, r#"{"fault": "reset_before_header"}"#)).await.is_err());
    assert!(connection.await.unwrap().is_err());
}

#[tokio::test]
async fn tls_offers_http2_and_takes_http1() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("edge.pem"), folder.path().join("edge.key"));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let mock = Mock::bind(([127, 0, 0, 1], 0).into(), Script::default()).await.unwrap();
    let address = mock.local_addr();
    let server = tokio::spawn(mock.with_tls(&certificate, &key).unwrap().serve());

    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let connect = async |protocols: &[&[u8]]| -> TlsStream<TcpStream> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
    };
    let socket = connect(&[b"h2", b"http/1.1"]).await;
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let answer = client.send_request(chat("https://localhost/v1/chat/completions", "{}")).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));

    let (mut client, connection) = http1::handshake(TokioIo::new(connect(&[b"http/1.1"]).await)).await.unwrap();
    tokio::spawn(connection);
    let answer = client.send_request(chat("/v1/chat/completions", "{}")).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_11));
    server.abort();
}

#[tokio::test]
async fn a_websocket_greets_and_echoes_and_ends_as_it_is_closed() {
    let mock = start().await;
    let connect = async || {
        let socket = TcpStream::connect(mock.addr).await.unwrap();
        let uri = format!("ws://{}/v1/realtime?model=m", mock.addr);
        tokio_tungstenite::client_async(uri, socket).await.unwrap().0
    };
    let mut session = connect().await;
    let greeting: Value = serde_json::from_str(session.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
    assert_eq!(greeting, json!({"type": "session.created"}));
    for message in [Message::text("hé"), Message::binary(vec![0, 255])] {
        session.send(message.clone()).await.unwrap();
        assert_eq!(session.next().await.unwrap().unwrap(), message);
    }
    session.close(None).await.unwrap();
    while session.next().await.is_some_and(|message| message.is_ok()) {}
    mock.wait_for(|stats| stats["completed"] == 1 && stats["cancelled"] == 0).await;

    let mut dropped = connect().await;
    dropped.next().await.unwrap().unwrap();
    drop(dropped);
    mock.wait_for(|stats| stats["completed"] == 1 && stats["cancelled"] == 1).await;
}

#[tokio::test]
async fn a_websocket_is_refused_as_a_request_is() {
    let mock = start().await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let headers = format!("{upgrade}x-mock: {{\"fault\": \"status:503\"}}\r\n");
    assert_eq!(mock.request("GET", "/v1/realtime", &headers, "").await.status, 503);
}
