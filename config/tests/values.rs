//! What a file means once it is believed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sluice_config::{
    BaseUrl, Config, Environment, History, Limits, Log, LogFormat, LogLevel, Provider, ProviderKind, Recall,
    RecallRanking, Route, Scrub, ScrubKind, Secret, Server, Snapshot, Target,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment::from_pairs(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn parse(text: &str, pairs: &[(&str, &str)]) -> Config {
    Config::parse("edge.toml", text, &environment(pairs)).unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(text: &str, pairs: &[(&str, &str)]) -> String {
    match Config::parse("edge.toml", text, &environment(pairs)) {
        Ok(config) => panic!("this is believed: {config:?}"),
        Err(faults) => faults.to_string(),
    }
}

fn defaults() -> Config {
    Config {
        server: Server {
            listen: "127.0.0.1:8080".parse().expect("an address"),
            admin_listen: "127.0.0.1:8081".parse().expect("an address"),
            worker_threads: 2,
            max_body_bytes: 33_554_432,
            session_max_bytes: 67_108_864,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            tls: None,
            cors_allowed_origins: Vec::new(),
        },
        log: Log { level: LogLevel::Info, format: LogFormat::Human },
        snapshot: Snapshot {
            location: None,
            notify: None,
            poll_interval: Duration::from_millis(250),
            max_snapshot_age: Duration::from_secs(604_800),
            trusted_keys: Vec::new(),
            journal_max_bytes: Some(268_435_456),
            contents_max_bytes: Some(268_435_456),
        },
        recall: Recall {
            cache_max_bytes: 67_108_864,
            cache_time_to_live: Duration::from_secs(300),
            query_max_characters: 2_048,
        },
        limits: Limits { requests_per_minute: 600 },
        providers: BTreeMap::new(),
        embedders: BTreeMap::new(),
        summarizers: BTreeMap::new(),
        routes: BTreeMap::new(),
    }
}

fn mock() -> Provider {
    Provider {
        kind: ProviderKind::Mock,
        base_url: None,
        api_key: None,
        api_key_secret: None,
        api_version: None,
        connect_timeout: Duration::from_secs(3),
        header_timeout: Duration::from_secs(120),
        first_token_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        total_timeout: Duration::from_secs(600),
        websocket_timeout: Duration::from_secs(3_600),
        http2: false,
        ca_file: None,
        proxy: None,
        max_concurrent_requests: 1_024,
        dns_refresh: Duration::from_secs(30),
        breaker_failures: 10,
        breaker_open: Duration::from_secs(1),
        retry_budget_percent: 20,
        stream_usage: true,
    }
}

fn target(provider: &str) -> Target {
    Target { provider: provider.to_owned(), model: None, weight: 1, max_output_tokens: None, context_window: None }
}

fn model(name: &str) -> Vec<Target> {
    vec![Target { model: Some(name.to_owned()), ..target("mock") }]
}

fn plain_route() -> Route {
    Route {
        targets: vec![target("mock")],
        fallbacks: Vec::new(),
        aliases: Vec::new(),
        retries: 2,
        hedge_after: None,
        keepalive_comment: None,
        drop_unsupported: false,
        pass_credentials: false,
        prompt: None,
        environment: "production".to_owned(),
        collections: Vec::new(),
        context_tokens: 1_500,
        recall: RecallRanking::default(),
        window_tokens: None,
        history: History::Truncate,
        history_keep_head: 0,
        summarizer: None,
        scrub: Scrub::default(),
        unscrubbable_parts: Vec::new(),
        unscrubbable_paths: Vec::new(),
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(parse("", &[]), defaults());
}

#[test]
fn the_full_sample_states_the_defaults_and_adds_providers_and_routes() {
    let path = Path::new("tests/samples/valid/full.toml");
    let config = Config::load(path, &environment(&[("OPENAI_API_KEY", " test\n")])).expect("the sample is valid");
    let kinds = vec![ScrubKind::Email, ScrubKind::Phone, ScrubKind::CreditCard];
    let scrub = Scrub { kinds, ..Scrub::default() };
    let base_url = BaseUrl { tls: true, host: "api.openai.com".to_owned(), port: 443, prefix: "/v1".to_owned() };
    let openai = Provider {
        kind: ProviderKind::OpenAi,
        base_url: Some(base_url),
        api_key: Some(Secret::new("test".to_owned())),
        ..mock()
    };
    let support_bot = Route {
        targets: model("gpt-4o-mini"),
        prompt: Some("support-bot".to_owned()),
        collections: vec!["handbook".to_owned()],
        scrub: scrub.clone(),
        unscrubbable_parts: vec!["image_url".to_owned()],
        unscrubbable_paths: vec!["/v1/files".to_owned()],
        ..plain_route()
    };
    let expected = Config {
        providers: BTreeMap::from([("mock".to_owned(), mock()), ("openai".to_owned(), openai)]),
        routes: BTreeMap::from([
            ("support-bot".to_owned(), support_bot),
            ("*".to_owned(), Route { scrub, ..plain_route() }),
        ]),
        ..defaults()
    };
    assert_eq!(config, expected);
}

#[test]
fn the_routing_sample_sets_what_the_full_one_leaves_at_its_default() {
    let config = Config::load(Path::new("tests/samples/valid/routing.toml"), &environment(&[]));
    let config = config.expect("the sample is valid");
    assert_eq!(config.server.cors_allowed_origins, ["https://example.com", "http://localhost:3000", "*"]);

    let url = |tls, host: &str, port, prefix: &str| {
        Some(BaseUrl { tls, host: host.to_owned(), port, prefix: prefix.to_owned() })
    };
    let openai = Provider {
        kind: ProviderKind::OpenAi,
        base_url: url(true, "api.openai.com", 443, "/v1"),
        proxy: url(false, "proxy.internal", 3_128, ""),
        http2: true,
        stream_usage: false,
        breaker_failures: 0,
        ..mock()
    };
    let azure = Provider {
        kind: ProviderKind::Azure,
        base_url: url(true, "sluice.openai.azure.com", 443, "/openai"),
        api_version: Some("2024-10-21".to_owned()),
        ..mock()
    };
    let anthropic = Provider {
        kind: ProviderKind::Anthropic,
        base_url: url(true, "api.anthropic.com", 443, "/v1"),
        api_version: Some("2023-06-01".to_owned()),
        ..mock()
    };
    let gemini = Provider {
        kind: ProviderKind::Gemini,
        base_url: url(true, "generativelanguage.googleapis.com", 443, "/v1beta"),
        ca_file: Some("gemini.pem".into()),
        ..mock()
    };
    let providers = [("openai", openai), ("azure", azure), ("anthropic", anthropic), ("gemini", gemini)];
    assert_eq!(config.providers, providers.map(|(name, provider)| (name.to_owned(), provider)).into());

    let prefix = Route {
        targets: vec![
            Target { weight: 9, ..target("openai") },
            Target {
                model: Some("gpt-4o".to_owned()),
                max_output_tokens: Some(16_384),
                context_window: Some(128_000),
                ..target("azure")
            },
        ],
        fallbacks: vec![Target { model: Some("claude-sonnet-4-5".to_owned()), ..target("anthropic") }],
        aliases: vec!["gpt-5".to_owned(), "o3*".to_owned()],
        retries: 0,
        hedge_after: Some(Duration::from_millis(200)),
        keepalive_comment: Some(Duration::from_secs(15)),
        drop_unsupported: true,
        pass_credentials: true,
        ..plain_route()
    };
    let headers = Route {
        targets: vec![target("gemini"), Target { weight: 2, ..target("openai") }],
        fallbacks: vec![target("azure")],
        ..plain_route()
    };
    let routes = [("gpt-4*", prefix), ("headers", headers)];
    assert_eq!(config.routes, routes.map(|(name, route)| (name.to_owned(), route)).into());
}

#[test]
fn the_shorthand_means_one_target_of_weight_1() {
    let provider = "providers.mock.kind = 'mock'\n[routes.a]\n";
    let keys = [("provider", "'mock'"), ("model", "'m'"), ("max_output_tokens", "1"), ("context_window", "4294967295")];
    let keys = keys.map(|(key, value)| format!("{key} = {value}"));
    let short = parse(&format!("{provider}{}", keys.join("\n")), &[]);
    let long = parse(&format!("{provider}targets = [{{ {}, weight = 1 }}]", keys.join(", ")), &[]);
    assert_eq!(short, long);
}

#[test]
fn an_override_replaces_targets_as_a_whole() {
    let text = "providers.mock.kind = 'mock'\nroutes.a.targets = [{ provider = 'absent' }]";
    let config = parse(text, &[("SLUICE__ROUTES__A__TARGETS", "[{ provider = 'mock', weight = 7 }]")]);
    assert_eq!(config.routes["a"].targets, [Target { weight: 7, ..target("mock") }]);
}

#[test]
fn an_override_beats_the_file_and_its_faults() {
    let text = "[server]\nlisten = \"nonsense\"\nworker_threads = 8";
    let config = parse(text, &[("SLUICE__SERVER__LISTEN", "0.0.0.0:80"), ("SLUICE__SERVER__WORKER_THREADS", "0x10")]);
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:80");
    assert_eq!(config.server.worker_threads, 16);
}

#[test]
fn an_override_can_make_a_table_that_the_file_lacks() {
    let config = parse("", &[("sluice__Log__level", "debug"), ("SLUICE__RECALL", "{ cache_max_bytes = 0 }")]);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.recall.cache_max_bytes, 0);
}

#[test]
fn an_override_finds_a_name_with_dashes() {
    let text = "providers.mock.kind = 'mock'\nroutes.Support-Bot.provider = 'mock'";
    let pairs = [("SLUICE__ROUTES__SUPPORT_BOT__SCRUB", "['PHONE']"), ("SLUICE__ROUTES__SUPPORT_BOT__MODEL", "gpt-4o")];
    let config = parse(text, &pairs);
    let route = Route {
        scrub: Scrub { kinds: vec![ScrubKind::Phone], ..Scrub::default() },
        targets: model("gpt-4o"),
        ..plain_route()
    };
    assert_eq!(config.routes, BTreeMap::from([("Support-Bot".to_owned(), route)]));
}

#[test]
fn variables_with_a_single_underscore_are_not_overrides() {
    assert_eq!(parse("", &[("SLUICE_DATA", "/srv"), ("SLUICE", "1"), ("SLUICE_", "1")]), defaults());
}

#[test]
fn a_fault_of_an_override_names_the_variable() {
    let told = "\
SLUICE__SERVER__LISTEN  `listen` in `[server]` is not an address of the form `IP:PORT`
      | SLUICE__SERVER__LISTEN=8080
      |                        ^^^^ an example is `127.0.0.1:8080`";
    // A number would be one in the file as well, so the text is quoted to arrive as a string.
    let told = told.replace("=8080", "=\"8080\"").replace("^^^^", "^^^^^^");
    assert_eq!(faults("[server]\nlisten = \"127.0.0.1:1\"", &[("SLUICE__SERVER__LISTEN", "\"8080\"")]), told);
}

#[test]
fn a_misspelled_override_is_told_with_the_right_name() {
    let told = "\
SLUICE__SERVER__LISTN  unknown key `listn` in `[server]`
      | SLUICE__SERVER__LISTN=…
      |                 ^^^^^ did you mean `SLUICE__SERVER__LISTEN`?";
    assert_eq!(faults("", &[("SLUICE__SERVER__LISTN", "127.0.0.1:1")]), told);
}

#[test]
fn a_file_that_is_absent_is_named() {
    let faults = Config::load(Path::new("absent.toml"), &environment(&[])).expect_err("there is no such file");
    let told = "absent.toml  the file cannot be read: No such file or directory (os error 2)";
    assert_eq!(faults.to_string(), told);
}

#[test]
fn a_fault_can_be_taken_apart() {
    let faults = Config::parse("edge.toml", "[log]\n\"ä\" = 1", &environment(&[])).expect_err("a key is unknown");
    let fault = faults.iter().next().expect("there is a fault");
    assert_eq!((faults.len(), fault.file(), fault.line(), fault.column()), (1, "edge.toml", Some(2), Some(1)));
    assert_eq!(fault.message(), "unknown key `ä` in `[log]`");
    assert_eq!((fault.quoted_line(), fault.span_length()), (Some("\"ä\" = 1"), Some(3)));
    assert_eq!(fault.hint(), Some("choose from `level`, `format`"));
}

#[test]
fn neither_a_configuration_nor_an_environment_prints_a_secret() {
    let text = "[providers.a]\nkind = 'mock'\napi_key_env = 'KEY'";
    let pairs = [("KEY", "hunter2")];
    let printed = format!("{:?} {:?}", parse(text, &pairs), environment(&pairs));
    assert!(!printed.contains("hunter2"), "{printed}");
}

/// An inline table nests 78 deep and each of its keys 78 more, which the parser allows. Dropping the tree once took
/// more stack than a test's thread has.
#[test]
fn a_tree_of_6_000_levels_does_not_overflow_the_stack() {
    let level = format!("{{{}a = ", "a.".repeat(78));
    let deep = format!("{}1{}", level.repeat(78), "}".repeat(78));
    let told = faults(&format!("k = {deep}"), &[("SLUICE__L", &deep)]);
    assert_eq!(told.matches("unknown table").count(), 2, "{told}");
}
