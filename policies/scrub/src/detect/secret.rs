//! Keys, tokens and passwords: by the prefix that their issuer gives them, or by the word that they are assigned to.

use super::scan::{NAME, TOKEN};
use aho_corasick::{AhoCorasick, AhoCorasickKind};
use std::ops::Range;
use std::sync::LazyLock;

/// Longest token that is read.
pub const MAX_TOKEN: usize = 4_096;
/// Longest private key block that is read.
const MAX_PEM: usize = 16 << 10;

/// Prefixes that issuers document, and the fewest characters behind them. Within a first letter, the longer come first.
const PREFIXES: &[(&str, usize)] = &[
    ("AGE-SECRET-KEY-1", 50),
    ("ATATT3", 50),
    ("ATCTT3", 50),
    ("ABIA", 16),
    ("ACCA", 16),
    ("AIza", 35),
    ("AKCp", 60),
    ("AKIA", 16),
    ("AKID", 28),
    ("AKLT", 40),
    ("ASIA", 16),
    ("ATBB", 24),
    ("CLOJARS_", 40),
    ("CFPAT-", 40),
    ("EAAA", 60),
    ("EAAC", 60),
    ("EZAK", 54),
    ("EZTK", 54),
    ("FLWSECK", 12),
    ("GOCSPX-", 24),
    ("HRKU-AA", 50),
    ("LTAI", 12),
    ("NRAK-", 24),
    ("NRII-", 24),
    ("PMAK-", 40),
    ("SG.", 40),
    ("apify_api_", 30),
    ("api_org_", 30),
    ("atlasv1.", 40),
    ("co_api_", 20),
    ("ctx7sk", 20),
    ("duffel_live_", 30),
    ("duffel_test_", 30),
    ("dckr_pat_", 20),
    ("doo_v1_", 40),
    ("dop_v1_", 40),
    ("dor_v1_", 40),
    ("dp.pt.", 40),
    ("dapi", 32),
    ("flb_live_", 20),
    ("fio-u-", 40),
    ("figd_", 30),
    ("fo1_", 40),
    ("fm1", 40),
    ("fw_", 20),
    ("github_pat_", 30),
    ("glagent-", 20),
    ("gcntfy-", 20),
    ("glffct-", 20),
    ("glsoat-", 20),
    ("glcbt-", 20),
    ("glimt-", 20),
    ("glpat-", 18),
    ("glptt-", 20),
    ("gldt-", 20),
    ("glft-", 20),
    ("glrt-", 18),
    ("glsa_", 30),
    ("gho_", 30),
    ("ghp_", 30),
    ("ghr_", 30),
    ("ghs_", 30),
    ("ghu_", 30),
    ("glc_", 30),
    ("gsk_", 40),
    ("hvb.", 40),
    ("hvp.", 24),
    ("hvs.", 24),
    ("hf_", 30),
    ("ico-", 20),
    ("ion_", 40),
    ("jina_", 40),
    ("kdt_", 20),
    ("key-", 32),
    ("lin_oauth_", 30),
    ("lin_api_", 30),
    ("live_", 40),
    ("lsv2_", 30),
    ("mk_live_", 20),
    ("nvapi-", 40),
    ("napi_", 30),
    ("nfp_", 30),
    ("npm_", 30),
    ("ntn_", 30),
    ("oauth2_", 30),
    ("ops_ey", 60),
    ("pscale_oauth_", 30),
    ("pscale_tkn_", 30),
    ("pscale_pw_", 30),
    ("pat-eu1-", 30),
    ("pat-na1-", 30),
    ("pk_live_", 20),
    ("pk_test_", 20),
    ("pplx-", 30),
    ("pypi-", 50),
    ("phc_", 30),
    ("phx_", 30),
    ("pnu_", 30),
    ("prv_", 40),
    ("pul-", 40),
    ("rubygems_", 40),
    ("rzp_live_", 12),
    ("rzp_test_", 12),
    ("rk_live_", 20),
    ("rk_test_", 20),
    ("rdme_", 60),
    ("rpa_", 30),
    ("r8_", 30),
    ("shippo_live_", 30),
    ("snyk_uat.", 40),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("sntrys_", 40),
    ("sntryu_", 40),
    ("sq0atp-", 20),
    ("sq0csp-", 40),
    ("sqOatp-", 20),
    ("shpat_", 32),
    ("shpca_", 32),
    ("shppa_", 32),
    ("shpss_", 32),
    ("sk.eyJ", 40),
    ("sbp_", 30),
    ("sgp_", 30),
    ("sk-", 18),
    ("sk_", 30),
    ("sl.", 60),
    ("tgp_v1_", 30),
    ("tskey-", 20),
    ("tvly-", 20),
    ("tfp_", 40),
    ("vercel_", 20),
    ("v1.0-", 100),
    ("wandb_v1_", 40),
    ("whsec_", 24),
    ("xapp-", 20),
    ("xoxa-", 20),
    ("xoxb-", 20),
    ("xoxc-", 20),
    ("xoxd-", 20),
    ("xoxe-", 20),
    ("xoxo-", 20),
    ("xoxp-", 20),
    ("xoxr-", 20),
    ("xoxs-", 20),
    ("xai-", 40),
    ("ya29.", 30),
    ("zpka_", 20),
];

/// Which of the prefixes begin with a byte of ASCII.
const FIRST: [(u8, u8); 128] = {
    let mut table = [(0, 0); 128];
    let mut place = 0;
    while place < PREFIXES.len() {
        let first = &mut table[PREFIXES[place].0.as_bytes()[0] as usize];
        if first.1 == 0 {
            first.0 = place as u8;
        }
        place += 1;
        first.1 = place as u8;
    }
    table
};

/// How sure a token with a documented prefix is.
const PREFIXED: f32 = 0.95;
/// How sure a value is that stands behind a word such as "password".
const ASSIGNED: f32 = 0.85;

/// Whether the token that begins at `start` has a documented prefix: where it ends. `end` is where its letters, digits,
/// `_` and `-` end; some kinds go on with dots.
pub fn prefixed(text: &str, start: usize, end: usize) -> Option<(Range<usize>, f32)> {
    let bytes = text.as_bytes();
    let token = &text[start..end];
    if token.len() < 3 {
        return None;
    }
    if token.starts_with("eyJ") {
        return jwt(bytes, start).map(|end| (start..end, PREFIXED));
    }
    // A Discord bot's: its number in base64, six and at least 27 characters.
    if (24..=28).contains(&token.len()) && token.starts_with(['M', 'N', 'O']) && bytes.get(end) == Some(&b'.') {
        let time = token_end(bytes, end + 1);
        let tail = if bytes.get(time) == Some(&b'.') { token_end(bytes, time + 1) } else { time };
        let fits = time - end == 7 && (28..=40).contains(&(tail - time));
        return (fits && distinct(token) >= 8).then_some((start..tail, PREFIXED));
    }
    // A Telegram bot's: its number, a colon, 35 characters.
    if (8..=10).contains(&token.len())
        && bytes.get(end) == Some(&b':')
        && token.bytes().all(|byte| byte.is_ascii_digit())
    {
        let tail = token_end(bytes, end + 1);
        return (tail - end - 1 == 35 && text[end + 1..].starts_with("AA")).then_some((start..tail, PREFIXED));
    }
    let (from, to) = FIRST[usize::from(token.as_bytes()[0] & 0x7f)];
    let same = &PREFIXES[usize::from(from)..usize::from(to)];
    let (prefix, least) = same.iter().find(|(prefix, _)| text[start..].starts_with(*prefix))?;
    let end = if prefix.contains('.') { NAME.end(bytes, start, MAX_TOKEN) } else { end };
    let end = start + text[start..end].trim_end_matches(['.', '-', '_']).len().max(prefix.len());
    // Atlassian's end in a checksum behind an equals sign.
    let end = match bytes.get(end) {
        Some(b'=') if prefix.starts_with("AT") => run(bytes, end + 1, |byte| byte.is_ascii_hexdigit()),
        _ => end,
    };
    let tail = &text[start + prefix.len()..end];
    let fixed = matches!(*prefix, "AKIA" | "ASIA" | "ABIA" | "ACCA");
    let long_enough = if fixed {
        tail.len() == 16 && tail.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    } else {
        tail.len() >= *least
    };
    let digits = tail.bytes().filter(u8::is_ascii_digit).count();
    let varied = digits > 0 && distinct(tail) >= 8;
    (long_enough && varied && !is_placeholder(tail)).then_some((start..end, PREFIXED))
}

/// The one usual prefix whose tokens may be letters alone.
pub const DIGITLESS: &str = "hf_";

/// The token that begins with [`DIGITLESS`] at `start`.
pub fn digitless(text: &str, start: usize) -> Option<(Range<usize>, f32)> {
    let bytes = text.as_bytes();
    let end = token_end(bytes, start);
    let tail = &text[start + DIGITLESS.len()..end];
    let mixed =
        tail.bytes().any(|byte| byte.is_ascii_lowercase()) && tail.bytes().any(|byte| byte.is_ascii_uppercase());
    let free = start == 0 || !TOKEN.has(bytes[start - 1]);
    (free && tail.len() >= 30 && mixed && tail.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .then_some((start..end, PREFIXED))
}

/// RFC 7519: three parts of base64url, of which the first is a JSON object.
fn jwt(bytes: &[u8], start: usize) -> Option<usize> {
    let part = |from: usize| {
        let end = token_end(bytes, from);
        (end > from + 1).then_some(end)
    };
    let header = part(start)?;
    let dot = |at: usize| bytes.get(at) == Some(&b'.');
    if !dot(header) || header - start < 12 {
        return None;
    }
    let payload = part(header + 1)?;
    match dot(payload).then(|| part(payload + 1)).flatten() {
        Some(signature) => Some(signature),
        // An unsecured one, or one that was cut, holds its claims all the same.
        None if payload - header > 12 => Some(payload),
        None => None,
    }
}

/// How a run of bytes goes on from `from`.
fn run(bytes: &[u8], from: usize, belongs: fn(u8) -> bool) -> usize {
    from + bytes[from..].iter().take(MAX_TOKEN).take_while(|byte| belongs(**byte)).count()
}

fn token_end(bytes: &[u8], from: usize) -> usize {
    TOKEN.end(bytes, from, MAX_TOKEN)
}

fn distinct(text: &str) -> usize {
    let mut seen = [false; 256];
    text.bytes().for_each(|byte| seen[usize::from(byte)] = true);
    seen.iter().filter(|seen| **seen).count()
}

/// Shannon's entropy in bits a character.
fn entropy(text: &str) -> f32 {
    let mut counts = [0u32; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let length = text.len() as f32;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f32 / length)
        .map(|share| -share * share.log2())
        .sum()
}

/// What only values hold that show where a secret would stand.
static PLACEHOLDER_PARTS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    any_of(&[
        "xxxx",
        "****",
        "....",
        "____",
        "your",
        "<",
        "${",
        "$(",
        "{{",
        "%(",
        "changeme",
        "change_me",
        "placeholder",
        "example",
        "redacted",
        "dummy",
        "todo",
        "insert",
        "replace",
        "process.env",
        "os.environ",
        "getenv",
        "secrets.",
        "sample",
    ])
});

/// What only the names of passwords hold.
static PASSWORD_PARTS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    any_of(&[
        "passw",
        "passphrase",
        "passcode",
        "pwd",
        "密码",
        "口令",
        "密碼",
        "contrase",
        "motdepasse",
        "mot de passe",
        "пароль",
        "senha",
        "kennwort",
        "wachtwoord",
        "hasło",
        "lösenord",
        "şifre",
        "parola",
        "パスワード",
        "비밀번호",
        "mật khẩu",
        "كلمة المرور",
        "סיסמה",
        "requirepass",
    ])
});

fn any_of(parts: &[&str]) -> Option<AhoCorasick> {
    AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).build(parts).ok()
}

/// Builds the tables that all searches share.
pub fn warm() {
    LazyLock::force(&PLACEHOLDER_PARTS);
    LazyLock::force(&PASSWORD_PARTS);
}

/// Whether a value only shows where a secret would stand.
pub fn is_placeholder(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let first = lower.as_bytes().first().copied();
    let same = lower.bytes().all(|byte| Some(byte) == first);
    same || value.starts_with('$')
        || value.starts_with('%')
        || PLACEHOLDER_PARTS.as_ref().is_some_and(|parts| parts.is_match(&lower))
        || matches!(
            lower.as_str(),
            "password"
                | "passwd"
                | "secret"
                | "token"
                | "pass"
                | "pwd"
                | "none"
                | "null"
                | "true"
                | "false"
                | "undefined"
                | "string"
                | "test"
                | "user"
        )
}

/// A private key block that begins at `start` (`-----BEGIN `): where it ends. One without an end goes as far as its lines
/// look like one.
pub fn pem(text: &str, start: usize) -> Option<usize> {
    let rest = &text[start..];
    let head = rest.get(..rest.len().min(64)).or_else(|| rest.get(..11))?;
    let label = head[11..].split("-----").next()?;
    if !label.contains("PRIVATE KEY") {
        return None;
    }
    let body = start + 11 + label.len() + 5;
    // A mark that a program looks for.
    if text.get(body..).is_none_or(|rest| rest.is_empty() || rest.starts_with(['"', '\'', '`', ' ', '/', ')'])) {
        return None;
    }
    let within = &text.as_bytes()[body..text.len().min(body + MAX_PEM + 9)];
    if let Some(length) = memchr::memmem::find(within, b"-----END ") {
        let end = body + length + 9;
        let close = memchr::memmem::find(&text.as_bytes()[end..(end + 48).min(text.len())], b"-----");
        return Some(close.map_or(end, |close| end + close + 5));
    }
    let looks = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'+' | b'/' | b'=' | b'\n' | b'\r' | b'\\' | b' ' | b':' | b',' | b'-')
    };
    let length = text.as_bytes().get(body..)?.iter().take(MAX_PEM).take_while(|byte| looks(byte)).count();
    Some(body + text[body..body + length].trim_end().len())
}

/// Parts of the words that secrets are assigned to, as they occur in identifiers and in prose.
pub const STEMS: [&str; 29] = [
    "pass",
    "PASS",
    "Pass",
    "pwd",
    "PWD",
    "Pwd",
    "ecret",
    "ECRET",
    "oken",
    "OKEN",
    "key",
    "Key",
    "KEY",
    "earer",
    "asic ",
    "redential",
    "CREDENTIAL",
    "ot de passe",
    "senha",
    "Senha",
    "ennwort",
    "achtwoord",
    "parola",
    "clave",
    "contrasena",
    "chave de API",
    "IDENTIFIED BY",
    "pw:",
    "pw=",
];

/// The same in texts that are not ASCII alone.
pub const WIDE_STEMS: [&str; 22] = [
    "密码",
    "口令",
    "密钥",
    "令牌",
    "密碼",
    "contraseña",
    "Contraseña",
    "пароль",
    "Пароль",
    "hasło",
    "Hasło",
    "lösenord",
    "Lösenord",
    "şifre",
    "Şifre",
    "パスワード",
    "비밀번호",
    "mật khẩu",
    "كلمة المرور",
    "סיסמה",
    "clé API",
    "APIキー",
];

/// What kind of word a value is assigned to.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    /// Whatever follows is one, however plain.
    Password,
    /// What follows must look random.
    Token,
    /// `Bearer`, `Basic`: the value follows a blank.
    Scheme,
}

/// The value that is assigned to the word around `start..end`, a stem that was found.
pub fn assigned(text: &str, start: usize, end: usize) -> Option<(Range<usize>, f32)> {
    let bytes = text.as_bytes();
    // A stem may bring its sign along.
    let mut to = if matches!(&text[start..end], "pw:" | "pw=" | "asic ") { end - 1 } else { end };
    if bytes[start] < 0x80 && to == end {
        to = TOKEN.end(bytes, end, 48);
    }
    // Most words are assigned nothing, which a byte or two tell, and most others nothing that could be a secret.
    let is_scheme = matches!(&text[start..end], "earer" | "asic ");
    if !may_assign(text, to, is_scheme) {
        return None;
    }
    let value = bridge(text, to, is_scheme)?;
    let quote = bytes[value - 1];
    let quoted = matches!(quote, b'"' | b'\'' | b'`');
    let end = value_end(text, value, quoted.then_some(quote));
    let found = &text[value..end];
    let is_plain = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'.' | b'-');
    if found.len() < 5 || !quoted && found.bytes().all(is_plain) {
        return None;
    }
    // Markup of a page that shows code: what ended the value is the end of a character's name.
    const NAMES: [&str; 6] = ["&quot", "&lt", "&gt", "&amp", "&#x3C", "&#39"];
    if text[end..].starts_with(';') && NAMES.iter().any(|name| found.ends_with(name)) {
        return None;
    }
    let from = NAME.start(bytes, 0, start, 48);
    let word = word(&text[from..to], &text[..from])?;
    let fits = match word {
        Word::Password => is_password(found, quoted, &text[end..]),
        Word::Token => {
            let mixed = found.bytes().any(|byte| byte.is_ascii_lowercase())
                && found.bytes().any(|byte| byte.is_ascii_uppercase());
            is_random(found, if mixed { 10 } else { 12 }, 2.8)
                && !found.starts_with("http")
                && !text[end..].starts_with(['(', '['])
        }
        Word::Scheme => is_random(found, 12, 2.8),
    };
    fits.then_some((value..end, ASSIGNED))
}

/// Whether a value may stand behind a word that ends at `at`, as [`bridge`] finds it, as far as the first bytes tell.
fn may_assign(text: &str, at: usize, is_scheme: bool) -> bool {
    let bytes = text.as_bytes();
    match bytes.get(at) {
        Some(b' ') if !is_scheme => {
            let blanks = bytes[at..].iter().take(3).take_while(|byte| **byte == b' ').count();
            match bytes.get(at + blanks) {
                // `:`, `=`, `->`; "is", "are", "was", "of", "es", "to", "by", "jest".
                Some(b':' | b'=' | b'-' | b'i' | b'a' | b'w' | b'o' | b'e' | b't' | b'b' | b'j') => true,
                Some(byte) => *byte >= 0x80 || is_directive(&text[..at]),
                None => false,
            }
        }
        Some(b' ' | b'\\' | b'"' | b'\'' | b'`' | b']' | b')' | b'*' | b':' | b'=' | b'-' | b'>') => true,
        // Signs of other scripts.
        Some(byte) => *byte >= 0x80,
        None => false,
    }
}

/// What kind of word `name` is, with what stands before it.
fn word(name: &str, before: &str) -> Option<Word> {
    let mut plain = String::with_capacity(name.len() + 8);
    match name.is_ascii() {
        true => plain.extend(
            name.bytes()
                .filter(|byte| !matches!(byte, b'_' | b'-' | b'.'))
                .map(|byte| char::from(byte.to_ascii_lowercase())),
        ),
        false => {
            plain.extend(name.chars().filter(|letter| !matches!(letter, '_' | '-' | '.')).flat_map(char::to_lowercase))
        }
    }
    let has = |part: &str| plain.contains(part);
    if plain == "bearer" || plain == "basic" {
        // No more than the longest of these words: the whole text may stand before it.
        let near = tail(before, 32).trim_end_matches([' ', '"', '\'', ':', '=']).to_ascii_lowercase();
        let announced =
            near.ends_with("authorization") || near.ends_with("auth") || near.ends_with("header") || plain == "bearer";
        return announced.then_some(Word::Scheme);
    }
    if PASSWORD_PARTS.as_ref().is_some_and(|parts| parts.is_match(&plain)) {
        return Some(Word::Password);
    }
    let last = name.rsplit(['_', '-', '.']).next().unwrap_or(name);
    if matches!(last, "pass" | "PASS" | "Pass" | "pw" | "pw:" | "pw=") {
        return Some(Word::Password);
    }
    if plain == "identified by" {
        return Some(Word::Password);
    }
    if ["clé api", "chave de api", "clave de api", "apiキー"].iter().any(|part| has(part)) {
        return Some(Word::Token);
    }
    if plain == "clave" {
        return Some(Word::Password);
    }
    if has("secret") || has("credential") || has("密钥") || has("令牌") {
        return Some(Word::Token);
    }
    if has("token") {
        // Counts of tokens and their like are no secrets.
        let counted =
            ["tokens", "maxtoken", "tokenizer", "tokencount", "tokenid", "numtoken"].iter().any(|part| has(part));
        return (!counted).then_some(Word::Token);
    }
    if has("key") {
        const WHOSE: [&str; 16] = [
            "api", "secret", "access", "private", "auth", "encrypt", "signing", "license", "master", "account",
            "service", "admin", "app", "session", "storage", "stripe",
        ];
        let near = tail(tail(before, 48).trim_end(), 24).to_ascii_lowercase();
        let whose = WHOSE.iter().any(|part| has(part) || near.ends_with(part))
            && !has("public")
            && !has("keyboard")
            && !has("keyword");
        let bare = matches!(plain.as_str(), "key");
        return (whose || bare && near.ends_with("my")).then_some(Word::Token);
    }
    None
}

/// The end of `text`, of at most so many bytes.
fn tail(text: &str, most: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(most))..]
}

/// Where the value behind a word that ends at `at` begins: `= "`, `: `, ` is `, `是`.
fn bridge(text: &str, at: usize, is_scheme: bool) -> Option<usize> {
    let rest = &text[at..];
    let skip = |text: &str, signs: &[char]| text.len() - text.trim_start_matches(signs).len();
    if is_scheme {
        let blanks = skip(rest, &[' ']);
        return (1..=2).contains(&blanks).then_some(at + blanks);
    }
    let mut length = 0;
    // The quote that closes a key, a bracket that closes an index, an escape before it.
    length += skip(&rest[length..], &['\\', '"', '\'', '`', ']', ')', '*']).min(4);
    length += skip(&rest[length..], &[' ']).min(3);
    const SIGNS: [&str; 26] = [
        ":=", "=>", "->", "→", "==", "=", ":", "is:", "is", "are", "was", "为:", "是:", "为", "是", "為", "は", "of",
        "es", "est", "é", "ist", "to", "by", "jest", "är",
    ];
    // A command's flag, or a directive, has a blank for a sign.
    let directive = length == 1 && rest.starts_with(' ') && is_directive(&text[..at]);
    let sign = SIGNS
        .iter()
        .find(|sign| rest[length..].starts_with(**sign))
        .or_else(|| (directive || length == 0 && rest.starts_with('>') && !rest.starts_with(">@")).then_some(&""))?;
    if sign.is_empty() {
        length += usize::from(length == 0);
        length += usize::from(rest[length..].starts_with(['"', '\'']));
        return (length < rest.len()).then_some(at + length);
    }
    let letters = sign.starts_with(|first: char| first.is_alphabetic() && !('\u{3000}'..).contains(&first));
    if letters && length == 0 {
        return None;
    }
    length += sign.len();
    if letters && !rest[length..].starts_with([' ', ':']) {
        return None;
    }
    length += skip(&rest[length..], &[' ', ':', '\t']).min(4);
    if matches!(*sign, ":" | "=" | "=>") {
        let kind = ["str ", "String ", "string "].iter().find(|kind| rest[length..].starts_with(**kind));
        length += kind.map_or(0, |kind| kind.len());
        length += skip(&rest[length..], &['=', ' ']).min(3);
    }
    let prefix = ["Bearer ", "Basic ", "bearer ", "token "]
        .iter()
        .find(|prefix| rest[length..].trim_start_matches(['"', '\'']).starts_with(**prefix));
    if let Some(prefix) = prefix {
        length += skip(&rest[length..], &['"', '\'']) + prefix.len();
        return Some(at + length);
    }
    // `b"…"`, `r'…'`, and escapes of JSON inside JSON.
    length += usize::from(rest[length..].starts_with("b\"") || rest[length..].starts_with("b'"));
    length += skip(&rest[length..], &['\\']).min(3);
    if rest[length..].starts_with(['"', '\'', '`']) {
        length += 1;
    }
    (length < rest.len()).then_some(at + length)
}

/// Whether what a word ends is a flag or a directive whose value follows a blank.
fn is_directive(before: &str) -> bool {
    let word = before.rsplit([' ', '\n', '\'', '"', '`']).next().unwrap_or(before);
    word.starts_with("--") || before.ends_with("IDENTIFIED BY") || matches!(word, "requirepass" | "masterauth")
}

/// Whether a column of this name holds passwords or keys.
pub fn is_column(name: &str) -> bool {
    let name = name.trim_matches([' ', '"', '*', '`']);
    name.len() <= 32 && name.split_whitespace().count() <= 2 && word(name, "").is_some()
}

/// The value of a column of passwords or keys that holds the place `at`.
pub fn in_column(text: &str, floor: usize, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let ends = |byte: &u8| matches!(byte, b',' | b'\t' | b'|' | b';' | b'\n' | b'\r' | b'"' | b'\'' | b' ');
    let start = at - bytes[floor..at].iter().rev().take(128).take_while(|byte| !ends(byte)).count();
    let end = at + bytes[at..].iter().take(512).take_while(|byte| !ends(byte)).count();
    let value = text.get(start..end)?;
    (!value.contains(['(', '[']) && is_password(value, true, &text[end..])).then_some(start..end)
}

/// Where a value ends: at its quote, or at a blank or a sign that ends a value.
fn value_end(text: &str, start: usize, quote: Option<u8>) -> usize {
    let rest = &text[start..];
    let stop = |character: char| match quote {
        Some(quote) => character == char::from(quote) || character == '\\' || character == '\n',
        None => {
            character.is_whitespace()
                || !character.is_ascii()
                || matches!(
                    character,
                    '"' | '\'' | '`' | ',' | ';' | '<' | '>' | '|' | ')' | ']' | '}' | '\\' | '(' | '['
                )
        }
    };
    let length = rest
        .char_indices()
        .take(512)
        .find(|(_, character)| stop(*character))
        .map_or_else(|| rest.char_indices().nth(512).map_or(rest.len(), |(at, _)| at), |(at, _)| at);
    match quote {
        Some(_) => start + length,
        // The next parameter of a query, the next field of a connection string.
        None if next_parameter(&rest[..length]).is_some() => start + next_parameter(&rest[..length]).unwrap_or(length),
        None => start + rest[..length].trim_end_matches(['.', ':', '&']).len(),
    }
}

/// Where the next parameter of a query begins: `&name=`.
fn next_parameter(value: &str) -> Option<usize> {
    value.match_indices('&').map(|(at, _)| at).find(|at| {
        let name = value[at + 1..].bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        name > 0 && value.as_bytes().get(at + 1 + name) == Some(&b'=')
    })
}

fn is_password(value: &str, quoted: bool, after: &str) -> bool {
    let length = value.chars().count();
    if !(5..=128).contains(&length) || is_placeholder(value) || value.contains(' ') && length > 64 {
        return false;
    }
    // A call or a member of a program, a path, another variable.
    let color = value.len() == 7 && value.starts_with('#') && value[1..].bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_code = color
        || !quoted && (after.starts_with(['(', '[']) || value.starts_with("__") || value.starts_with('{'))
        || after.starts_with('(')
        || value.contains("::")
        || value.contains("->")
        || value.starts_with("self.")
        || value.starts_with("http")
        || value.starts_with('/') && !value.bytes().any(|byte| byte.is_ascii_digit());
    if is_code || value.contains(' ') {
        return false;
    }
    let digits = value.bytes().any(|byte| byte.is_ascii_digit());
    let signs = value.bytes().any(|byte| byte.is_ascii_punctuation() && !matches!(byte, b'_' | b'.' | b'-'));
    let mixed = value.bytes().any(|byte| byte.is_ascii_lowercase())
        && value.bytes().skip(1).any(|byte| byte.is_ascii_uppercase());
    if quoted {
        return digits
            || signs
            || mixed
            || length >= 8
                && value.bytes().all(|byte| byte.is_ascii_lowercase())
                && entropy(value) > 2.5
                && !is_word(value);
    }
    let mixed_in = !value.bytes().all(|byte| byte.is_ascii_digit());
    digits && (mixed_in || length >= 6) || signs && length >= 7 && !value.ends_with(['!', '?'])
}

/// Words that documentation and programs put where a password stands.
fn is_word(value: &str) -> bool {
    matches!(
        value,
        "required"
            | "optional"
            | "incorrect"
            | "forgotten"
            | "username"
            | "plaintext"
            | "encrypted"
            | "confirmed"
            | "disabled"
            | "database"
            | "postgres"
            | "localhost"
            | "password"
            | "credentials"
            | "rejected"
            | "protected"
    )
}

/// Whether a value looks made by a machine.
fn is_random(value: &str, least: usize, bits: f32) -> bool {
    if !(least..=2_048).contains(&value.len()) {
        return false;
    }
    let (mut digits, mut upper, mut lower, mut joints, mut others) = (0, 0, 0, 0, 0);
    for byte in value.bytes() {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'A'..=b'Z' => upper += 1,
            b'a'..=b'z' => lower += 1,
            b'_' => joints += 1,
            b'-' | b'+' | b'/' | b'=' | b'.' | b'~' | b'!' | b'@' | b'#' | b'$' | b'%' | b'^' | b'&' | b'*' => {
                others += 1;
            }
            _ => return false,
        }
    }
    // A name in a program: `x25519_check_key`, `WBEM_128BITS`.
    let is_name = joints > 0 && (upper == 0 || lower == 0) && digits <= 5 && others == 0;
    !is_name && digits >= 2 && upper + lower >= 2 && entropy(value) >= bits && !is_placeholder(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<&str> {
        STEMS.iter().chain(&WIDE_STEMS).find_map(|stem| {
            let at = text.find(stem)?;
            assigned(text, at, at + stem.len()).map(|(range, _)| &text[range])
        })
    }

    fn token(text: &str) -> Option<&str> {
        let end = token_end(text.as_bytes(), 0);
        prefixed(text, 0, end).map(|(range, _)| &text[range])
    }

    #[test]
    fn the_prefixes_are_sorted() {
        assert!(PREFIXES.windows(2).all(|pair| pair[0].0.as_bytes()[0] <= pair[1].0.as_bytes()[0]));
    }

    #[test]
    fn documented_prefixes_are_known() {
        for good in [
            "sk-proj-ZsC23q8rENMhCXZIESS9GSqu4SSAVo5f",
            "ghp_5XFDsRUr5OiDRgL9xrUQoC9NBKGjRzKeVsP2",
            "AKIAPNVRJG2P6SIGWLGV",
            "xoxb-975197546956-827265622795-gX7nHeFo",
            "hf_cjUdZUjULcKVRxLhvqFTScRnBPtoniFa1y",
            "glpat-_OzTitP3JqZ73SdarSaf",
            "hvs.CAESIJ1hT9aB2kq0v5xYzQwErTyUiOp",
        ] {
            assert_eq!(token(good), Some(good));
        }
        assert_eq!(
            token("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N rest"),
            Some("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N")
        );
        for bad in [
            "sk-xxxxxxxxxxxxxxxxxxxx",
            "sk-learn-extra-package",
            "AKIAIOSFODNN7EXAMPLE",
            "npm_config_registry",
            "hf_hub_download",
        ] {
            assert_eq!(token(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_assigned_to_a_password_is_one() {
        for (text, expected) in [
            ("password=DDHcGc29kbY7eb3# Clone", "DDHcGc29kbY7eb3#"),
            ("wifi密码是Harbor_H93wy?", "Harbor_H93wy?"),
            ("user: 'app', password: '0M8oEPZSmKPWbS' }", "0M8oEPZSmKPWbS"),
            ("{\"db_password\": \"s3cr3t-Pa55\"}", "s3cr3t-Pa55"),
            ("My password is Tr0ub4dor&3.", "Tr0ub4dor&3"),
            ("Authorization: Bearer 8f14e45fceea167a5a36dedd4bea2543", "8f14e45fceea167a5a36dedd4bea2543"),
            (
                "AWS_SECRET_ACCESS_KEY=NkPAAiyV1CozOO0v61kXZ45B7fmW/3mar3oZKUXd",
                "NkPAAiyV1CozOO0v61kXZ45B7fmW/3mar3oZKUXd",
            ),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
        assert_eq!(value("password: \"Kx9&#2mQ!\""), Some("Kx9&#2mQ!"));
        for text in [
            "password: ********",
            "password=<your-password>",
            "api_key=YOUR_API_KEY",
            "password is required",
            "password = getpass.getpass()",
            "token = tokens[3]",
            "max_tokens: 123456789012",
            "primary_key: 8f14e45fceea167a5a36dedd",
            "`token = \"<TOKEN>\"`",
            "password: str = None",
            "passwd=os.environ['PW1234']",
            "tf(&quot;Password is correct.&quot;)",
            "passphrase: &#x3C;string>",
        ] {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn private_keys_are_taken_whole() {
        let block = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC==\n-----END RSA PRIVATE KEY-----";
        assert_eq!(pem(&format!("{block}\nrest"), 0), Some(block.len()));
        assert_eq!(
            pem("-----BEGIN PRIVATE KEY-----\nMIIE\nIBAA\n\n中", 0),
            Some("-----BEGIN PRIVATE KEY-----\nMIIE\nIBAA".len())
        );
        assert_eq!(pem("-----BEGIN CERTIFICATE-----\nMIIE", 0), None);
    }
}
