// temporary: closed loop against ADDR, COUNT requests, model
use bytes::Bytes;
use std::sync::Arc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let model = a[3].clone();
    let r: sluice_bench::load::Requests = Arc::new(move |n| {
        let b = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"q {n}"}}]}}"#);
        Bytes::from(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\nauthorization: Bearer sk-sluice-abc\r\ncontent-length: {}\r\n\r\n{b}",
            b.len()
        ))
    });
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let t = std::time::Instant::now();
    let c = std::time::SystemTime::now();
    let rep = rt.block_on(sluice_bench::load::closed(a[1].parse().unwrap(), 32, 0..a[2].parse().unwrap(), r));
    println!(
        "requests {} errors {}/{} elapsed {:?} outer {:?} wall {:?} rps {:.0} p50 {}",
        rep.requests,
        rep.status_errors,
        rep.io_errors,
        rep.elapsed,
        t.elapsed(),
        c.elapsed().unwrap(),
        rep.requests_per_second(),
        rep.percentile_us(50.0)
    );
}
