//! A client that sees every byte: the mock is started for one test and spoken to over a plain socket.

use serde_json::{Value, json};
use sluice_bench::mock::{Mock, Script};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Running {
    pub addr: SocketAddr,
    pub server: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub async fn start() -> Running {
    start_with(Script::default()).await
}

pub async fn start_with(script: Script) -> Running {
    let mock = Mock::bind(([127, 0, 0, 1], 0).into(), script).await.unwrap();
    Running { addr: mock.local_addr(), server: tokio::spawn(mock.serve()) }
}

pub fn turns() -> Value {
    json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": null, "tool_calls": []},
        {"role": "user", "content": [
            {"type": "text", "text": "what is new"},
            {"type": "image_url", "image_url": {"url": "data:,"}},
            {"type": "text", "text": "today?"},
        ]},
    ])
}

pub fn streamed(text: &str) -> Value {
    json!({"stream": true, "messages": [{"role": "user", "content": text}]})
}

impl Running {
    pub async fn chat(&self, script: &str, request: Value) -> Answer {
        self.post("/v1/chat/completions", script, request).await
    }

    pub async fn post(&self, path: &str, script: &str, request: Value) -> Answer {
        self.request("POST", path, &format!("x-mock: {script}\r\n"), &request.to_string()).await
    }

    pub async fn script(&self, script: Value) {
        assert_eq!(self.request("POST", "/mock/script", "", &script.to_string()).await.status, 200);
    }

    pub async fn stats(&self) -> Value {
        self.request("GET", "/mock/stats", "", "").await.json()
    }

    /// Waits for a state instead of a time, so that a loaded machine makes the test slow and not wrong.
    pub async fn wait_for(&self, state: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..2_000 {
            let stats = self.stats().await;
            if state(&stats) {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the state never came: {}", self.stats().await);
    }

    pub async fn send(&self, script: &str, request: &Value) -> TcpStream {
        self.open("POST", "/v1/chat/completions", &format!("x-mock: {script}\r\n"), &request.to_string()).await
    }

    pub async fn open(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    pub async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.open(method, path, headers, body).await;
        Answer::parse(&read_all(&mut stream).await)
    }
}

pub async fn read_some(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 1 << 16];
    let length = stream.read(&mut buffer).await.unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

pub async fn read_all(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    String::from_utf8(received).unwrap()
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    /// One for each HTTP chunk; one in all for a body of a declared length.
    pub chunks: Vec<String>,
    /// Whether a chunked body had its last chunk.
    pub ended: bool,
}

impl Answer {
    pub fn parse(received: &str) -> Answer {
        let (head, mut body) = received.split_once("\r\n\r\n").expect("a whole header");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head: head.to_lowercase(), chunks: Vec::new(), ended: false };
        if !answer.head.contains("transfer-encoding: chunked") {
            answer.chunks.push(body.to_owned());
            return answer;
        }
        while let Some((size, rest)) = body.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                answer.ended = true;
                break;
            }
            answer.chunks.push(rest[..size].to_owned());
            body = &rest[size + 2..];
        }
        answer
    }

    pub fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    pub fn text(&self) -> String {
        self.chunks.concat()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn content(&self) -> String {
        self.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    /// The data of each event.
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        let events = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap().to_owned());
        events.collect()
    }

    pub fn json_events(&self) -> Vec<Value> {
        let events = self.events();
        let data = events.iter().filter(|data| *data != "[DONE]");
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    pub fn deltas_of(&self, field: &str) -> Vec<Value> {
        let events = self.json_events();
        let deltas = events.iter().filter_map(|event| event["choices"][0]["delta"].get(field));
        deltas.cloned().collect()
    }

    /// The non-empty texts of one field of the deltas.
    pub fn deltas(&self, field: &str) -> Vec<String> {
        let texts = self.deltas_of(field).into_iter().map(|text| text.as_str().unwrap().to_owned());
        texts.filter(|text| !text.is_empty()).collect()
    }
}

/// One dialect's way to ask for an answer to a text.
#[derive(Debug, Clone, Copy)]
pub enum Dialect {
    Chat,
    Responses,
    Messages,
    Gemini,
    /// Gemini's stream as one JSON array.
    GeminiArray,
}

pub const DIALECTS: [Dialect; 5] =
    [Dialect::Chat, Dialect::Responses, Dialect::Messages, Dialect::Gemini, Dialect::GeminiArray];

impl Dialect {
    pub fn path(self, stream: bool) -> &'static str {
        match (self, stream) {
            (Dialect::Chat, _) => "/v1/chat/completions",
            (Dialect::Responses, _) => "/v1/responses",
            (Dialect::Messages, _) => "/v1/messages",
            (Dialect::Gemini, true) => "/v1beta/models/gemini-2.5-pro:streamGenerateContent?key=k&alt=sse",
            (Dialect::GeminiArray, true) => "/v1beta/models/gemini-2.5-pro:streamGenerateContent",
            (_, false) => "/v1beta/models/gemini-2.5-pro:generateContent",
        }
    }

    pub fn request(self, stream: bool, text: &str) -> Value {
        let messages = json!([{"role": "user", "content": text}]);
        match self {
            Dialect::Chat => json!({"model": "m", "stream": stream, "messages": messages}),
            Dialect::Responses => json!({"model": "m", "stream": stream, "input": text}),
            Dialect::Messages => json!({"model": "m", "max_tokens": 9, "stream": stream, "messages": messages}),
            Dialect::Gemini | Dialect::GeminiArray => {
                json!({"contents": [{"role": "user", "parts": [{"text": text}]}]})
            }
        }
    }

    /// The text in an event or in a plain answer.
    pub fn text(self, json: &Value) -> String {
        let text = match self {
            Dialect::Chat => {
                json.pointer("/choices/0/delta/content").or_else(|| json.pointer("/choices/0/message/content"))
            }
            Dialect::Responses => match json["type"].as_str() {
                Some("response.output_text.delta") => json.get("delta"),
                Some(_) => None,
                None => json.pointer("/output/0/content/0/text"),
            },
            Dialect::Messages => json.pointer("/delta/text").or_else(|| json.pointer("/content/0/text")),
            _ => json.pointer("/candidates/0/content/parts/0/text"),
        };
        text.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The documents of a stream: the data of its events, or the elements of its array.
    pub fn documents(self, body: &str) -> Vec<Value> {
        if let Dialect::GeminiArray = self {
            return serde_json::from_str(body).unwrap();
        }
        let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    pub fn texts(self, body: &str) -> String {
        self.documents(body).iter().map(|json| self.text(json)).collect()
    }

    /// Whether a stream's body ends as a complete one does.
    pub fn is_complete(self, body: &str) -> bool {
        match self {
            Dialect::Chat => body.ends_with("data: [DONE]\n\n"),
            Dialect::Responses => body.contains("event: response.completed\n"),
            Dialect::Messages => body.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
            Dialect::Gemini => body.contains("\"finishReason\":\"STOP\""),
            Dialect::GeminiArray => body.contains("\"finishReason\":\"STOP\"") && body.ends_with(']'),
        }
    }
}

impl Running {
    pub async fn ask(&self, dialect: Dialect, stream: bool, script: &str, text: &str) -> Answer {
        self.post(dialect.path(stream), script, dialect.request(stream, text)).await
    }

    /// Every byte of an answer, and how the connection ended.
    pub async fn ask_raw(
        &self,
        dialect: Dialect,
        stream: bool,
        script: &str,
        text: &str,
    ) -> (Vec<u8>, io::Result<usize>) {
        let request = dialect.request(stream, text).to_string();
        let mut socket = self.open("POST", dialect.path(stream), &format!("x-mock: {script}\r\n"), &request).await;
        let mut received = Vec::new();
        let end = socket.read_to_end(&mut received).await;
        (received, end)
    }

    /// What arrives until nothing has come for `silence`.
    pub async fn ask_until_silence(&self, dialect: Dialect, stream: bool, script: &str, silence: Duration) -> String {
        let request = dialect.request(stream, "a b c d").to_string();
        let mut socket = self.open("POST", dialect.path(stream), &format!("x-mock: {script}\r\n"), &request).await;
        let mut received = String::new();
        while let Ok(more) = tokio::time::timeout(silence, read_some(&mut socket)).await {
            assert!(!more.is_empty(), "the connection ended: {received}");
            received += &more;
        }
        received
    }
}
