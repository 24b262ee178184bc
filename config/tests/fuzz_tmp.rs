use sluice_config::{Config, Environment};
#[test]
fn soup() {
    let tokens = ["[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\"", "'", "\"\"\"", "'''", "\n", "\r\n", "\r", " ", "\t", "#", "\\", "\\u00", "a", "server", "listen", "providers", "routes", "x", "kind", "\"mock\"", "\"openai\"", "1", "-1", "0x", "1_0", "1e9", "inf", "nan", "true", "1979-05-27", "07:32:00", "é", "\u{feff}", "\0", "\u{7f}", "api_key = \"sk-hunter2\"", "base_url", "log", "level", "scrub = [", "server.listen = 1\n", "[server]\n", "[providers.a]\n", "a.b.c = 1\n", "[[a]]\n", "[a.b]\n", "*", "\"*\"", "trusted_keys", "+", "http://", "@", "?", "\u{2028}"];
    let mut samples: Vec<String> = vec![];
    for d in ["tests/samples/valid", "tests/samples/invalid"] { for e in std::fs::read_dir(d).unwrap() { let p = e.unwrap().path(); if p.extension().is_some_and(|x| x == "toml") { samples.push(String::from_utf8_lossy(&std::fs::read(p).unwrap()).into_owned()); } } }
    let mut s: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(88172645463325252);
    let mut r = |n: usize| { s ^= s << 13; s ^= s >> 7; s ^= s << 17; (s % n as u64) as usize };
    let start = std::time::Instant::now();
    let mut n = 0u64;
    while start.elapsed().as_secs() < 90 {
        let mut text = String::new();
        if r(2) == 0 { for _ in 0..r(40) { text.push_str(tokens[r(tokens.len())]); } }
        else {
            text = samples[r(samples.len())].clone();
            for _ in 0..1 + r(6) { let mut i = r(text.len() + 1); while !text.is_char_boundary(i) { i -= 1; }
                match r(3) { 0 => text.insert_str(i, tokens[r(tokens.len())]), 1 => { if i < text.len() { text.remove(i); } } _ => { let mut j = i + r(30); j = j.min(text.len()); while !text.is_char_boundary(j) { j -= 1; } if j > i { text.replace_range(i..j, ""); } } } }
        }
        let mut env = vec![];
        if r(3) == 0 { for _ in 0..r(4) { let mut name = "SLUICE__".to_owned(); for _ in 0..r(4) { name.push_str(["SERVER", "__", "_", "LISTEN", "PROVIDERS", "A", "é", "X", "ROUTES"][r(9)]); } let mut v = String::new(); for _ in 0..r(6) { v.push_str(tokens[r(tokens.len())]); } env.push((name, v)); } }
        let env2 = env.clone();
        let t2 = text.clone();
        let res = std::panic::catch_unwind(move || { let e = Environment::from_pairs(env2); if let Err(f) = Config::parse("f", &t2, &e) { let _ = f.to_string(); assert!(f.len() > 0); } });
        assert!(res.is_ok(), "text {text:?} env {env:?}");
        n += 1;
    }
    eprintln!("{n} runs");
}
