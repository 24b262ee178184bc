//! What scrubbing costs, on one core in one run: the scrubber beside plain reading of the same bytes, a loop of separate
//! regular expressions for the same kinds, and a package of the field.

use clap::Parser;
use regex::Regex;
use serde_json::Value;
use sluice_bench::chat::{self, Stream, is_code, pieces, repeated};
use sluice_scrub::{Rules, find, warm};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Measures the scrubber")]
struct Flags {
    /// The labelled corpus, JSON lines with `lang`, `kind`, `text` and `entities`.
    #[arg(long)]
    corpus: PathBuf,
    /// Prose, JSON lines with `text`.
    #[arg(long)]
    prose: PathBuf,
    /// Source code: files or folders.
    #[arg(long, num_args = 1..)]
    code: Vec<PathBuf>,
    /// Texts of the world in which little is personal, such as sources, logs and documentation: what is found in them is
    /// told by kind, with examples.
    #[arg(long, num_args = 1..)]
    real: Vec<PathBuf>,
    /// A Python that has the package `datafog_core`; left out when absent.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// How often everything is measured; each figure is the best of the rounds, as everything else only adds.
const ROUNDS: usize = 9;

/// A text that is measured.
struct Sample {
    name: &'static str,
    texts: Vec<String>,
    /// Microseconds a kilobyte, at most.
    bar: f64,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scrub: {error}");
            ExitCode::from(2)
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn run(flags: &Flags) -> Result<bool, Failure> {
    warm();
    let rules = Rules::default();
    let samples = samples(flags)?;
    let regexes = regexes()?;
    let mut out = String::new();
    let mut good = true;
    writeln!(
        out,
        "{:<26} {:>8} {:>9} {:>9} {:>11} {:>11} {:>7}",
        "µs a kilobyte", "KB", "scrubber", "memchr", "regex loop", "package", "bar"
    )?;
    for sample in &samples {
        let bytes: usize = sample.texts.iter().map(String::len).sum();
        let kilobytes = bytes as f64 / 1024.0;
        let (mut own, mut plain, mut loops) = (f64::MAX, f64::MAX, f64::MAX);
        // Short texts are over before a busy machine is quiet once.
        for round in 0..ROUNDS * (2_usize << 20).div_ceil(bytes).clamp(1, 20) {
            own = own.min(micros(|| each(&sample.texts, |text| find(text, &rules).len())));
            plain =
                plain.min(micros(|| each(&sample.texts, |text| memchr::memchr_iter(b'@', text.as_bytes()).count())));
            if round % 3 == 0 {
                let count = |text: &str| regexes.iter().map(|regex| regex.find_iter(text).count()).sum();
                loops = loops.min(micros(|| each(&sample.texts, count)));
            }
        }
        let package = package(flags.python.as_deref(), &sample.texts)?;
        let told = package.map_or("-".to_owned(), |micros| format!("{:.1}", micros / kilobytes));
        let (own, plain, loops) = (own / kilobytes, plain / kilobytes, loops / kilobytes);
        let ok = own <= sample.bar && loops >= 5.0 * own;
        good &= ok;
        let verdict = if ok { "" } else { "  MISSED" };
        writeln!(
            out,
            "{:<26} {kilobytes:>8.0} {own:>9.2} {plain:>9.3} {loops:>11.1} {told:>11} {:>7.1}{verdict}",
            sample.name, sample.bar
        )?;
    }
    writeln!(
        out,
        "\nflat with length: the same megabyte with much personal data in pieces, µs a kilobyte in pieces of"
    )?;
    let dense = &samples[0].texts.concat();
    let megabyte = repeated(dense, 1 << 20);
    let mut flat: Vec<f64> = Vec::new();
    for size in [1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20] {
        let pieces = pieces(&megabyte, size);
        let best =
            (0..ROUNDS).map(|_| micros(|| each(&pieces, |text| find(text, &rules).len()))).fold(f64::MAX, f64::min);
        let cost = best / (megabyte.len() as f64 / 1024.0);
        writeln!(out, "  {:>5} KB {cost:>8.2}", size >> 10)?;
        flat.push(cost);
    }
    good &= flat[4] <= flat[0] * 1.25;
    good &= body(&mut out, &rules, &samples[3].texts.concat())?;
    good &= restoring(&mut out, &rules)?;
    let mut real = Vec::new();
    for path in &flags.real {
        read_texts(path, &|_| true, &mut real)?;
    }
    if !real.is_empty() {
        hits(&mut out, &real, &rules)?;
    }
    std::io::stdout().write_all(out.as_bytes())?;
    Ok(good)
}

fn micros(work: impl FnOnce() -> usize) -> f64 {
    let begun = Instant::now();
    black_box(work());
    begun.elapsed().as_secs_f64() * 1e6
}

fn each(texts: &[String], count: impl Fn(&str) -> usize) -> usize {
    texts.iter().map(|text| count(black_box(text))).sum()
}

fn samples(flags: &Flags) -> Result<Vec<Sample>, Failure> {
    let corpus: Vec<Value> =
        fs::read_to_string(&flags.corpus)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let part = |wanted: &dyn Fn(&Value) -> bool| -> Vec<String> {
        corpus.iter().filter(|line| wanted(line)).filter_map(|line| line["text"].as_str().map(str::to_owned)).collect()
    };
    let prose: Vec<String> = fs::read_to_string(&flags.prose)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["text"].as_str().map(str::to_owned))
        .collect();
    // One text with personal data for each four kilobytes of prose.
    let mut sparse = Vec::new();
    let personal = part(&|line| line["lang"] == "en" && line["kind"] == "chat");
    let mut since = 0;
    let mut next = personal.iter().cycle();
    for text in prose {
        since += text.len();
        sparse.push(text);
        if since >= 4 << 10 {
            since = 0;
            sparse.extend(next.next().cloned());
        }
    }
    let mut code = Vec::new();
    for path in &flags.code {
        read_texts(path, &|path| path.extension().is_some_and(|extension| extension == "rs"), &mut code)?;
    }
    Ok(vec![
        Sample { name: "corpus, English", texts: part(&|line| line["lang"] == "en" && !is_code(line)), bar: 5.0 },
        Sample { name: "corpus, Chinese", texts: part(&|line| line["lang"] == "zh"), bar: 5.0 },
        Sample { name: "corpus, code", texts: part(&is_code), bar: 5.0 },
        Sample { name: "sparse prose", texts: sparse, bar: 2.0 },
        Sample { name: "source code", texts: code, bar: 2.0 },
    ])
}

/// Largest file that is read, and most bytes of all.
const MAX_FILE: u64 = 4 << 20;
const MAX_TEXTS: usize = 64 << 20;

/// The text files at `path` and below that `wanted` names, in order, up to a limit.
fn read_texts(path: &Path, wanted: &dyn Fn(&Path) -> bool, texts: &mut Vec<String>) -> Result<(), Failure> {
    if path.is_symlink() || texts.iter().map(String::len).sum::<usize>() > MAX_TEXTS {
        return Ok(());
    }
    if path.is_dir() {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| read_texts(entry, wanted, texts));
    }
    // What is no text is nobody's log.
    if path.is_file()
        && wanted(path)
        && fs::metadata(path)?.len() <= MAX_FILE
        && let Ok(text) = fs::read_to_string(path)
    {
        texts.push(text);
    }
    Ok(())
}

/// What is found in `texts`, by kind, a megabyte, with the first examples of each kind.
fn hits(out: &mut String, texts: &[String], rules: &Rules) -> Result<(), Failure> {
    const EXAMPLES: usize = 4;
    let mut kinds: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for text in texts {
        for finding in find(text, rules) {
            let (count, examples) = kinds.entry(finding.kind.name()).or_default();
            *count += 1;
            let start = text[..finding.range.start].char_indices().rev().nth(20).map_or(0, |(at, _)| at);
            let around = text[start..finding.range.end].replace(char::is_whitespace, " ");
            let value: String = around.chars().take(80).collect();
            if examples.len() < EXAMPLES && !examples.contains(&value) {
                examples.push(value);
            }
        }
    }
    let megabytes = texts.iter().map(String::len).sum::<usize>() as f64 / f64::from(1 << 20);
    writeln!(out, "\nhits a megabyte in {megabytes:.1} MB of {} real texts", texts.len())?;
    for (kind, (count, examples)) in kinds {
        writeln!(out, "  {kind:<16} {:>8.2}   {}", count as f64 / megabytes, examples.join(" ¦ "))?;
    }
    Ok(())
}

/// A regular expression for each kind, as packages of the field loop over them; none checks anything.
fn regexes() -> Result<Vec<Regex>, regex::Error> {
    [
        r"[\w.+-]+@[\w-]+\.[\w.-]+",
        r"\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}",
        r"\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b",
        r"\b1[3-9]\d[ -]?\d{4}[ -]?\d{4}\b",
        r"\b0\d{2,3}[ -]\d{7,8}\b",
        r"\b(?:\d[ -]?){13,19}\b",
        r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
        r"(?i)(?:account|acct|routing)\D{0,20}\d{6,17}\b",
        r"\b\d{3}-\d{2}-\d{4}\b",
        r"\b\d{17}[\dXx]\b",
        r"\b[0-9A-HJ-NPQRTUWXY]{2}\d{6}[0-9A-HJ-NPQRTUWXY]{10}\b",
        r"(?i)passport\D{0,20}[A-Z0-9]{6,9}\b",
        r"(?i)(?:born|birth|dob)\D{0,20}\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}",
        r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
        r"\b(?:[0-9a-fA-F]{1,4}:){2,7}[0-9a-fA-F]{1,4}\b",
        r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b",
        r"\b[a-z][a-z0-9+.-]*://[^\s:@/]*:[^\s@/]+@\S+",
        r"\b[13][a-km-zA-HJ-NP-Z1-9]{25,34}\b",
        r"\bbc1[a-z0-9]{11,71}\b",
        r"\b0x[0-9a-fA-F]{40}\b",
        r"\bsk-[A-Za-z0-9_-]{18,}",
        r"\bgh[pousr]_[A-Za-z0-9]{30,}",
        r"\bAKIA[0-9A-Z]{16}\b",
        r"\bxox[abpr]-[A-Za-z0-9-]{10,}",
        r"\beyJ[\w-]+\.[\w-]+\.[\w-]+",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r#"(?i)(?:password|passwd|secret|token|api[_-]?key)["']?\s*[:=]\s*["']?[^\s"']{6,}"#,
        r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-Z][·]?[A-Z0-9]{5,6}",
    ]
    .into_iter()
    .map(Regex::new)
    .collect()
}

/// What the package takes for the same texts, in microseconds: the best of three.
fn package(python: Option<&Path>, texts: &[String]) -> Result<Option<f64>, Failure> {
    const SCRIPT: &str = "import sys,json,time,datafog_core as d\ntexts=json.load(sys.stdin)\nbest=1e99\nfor _ in range(3):\n    t=time.perf_counter()\n    for x in texts: d.scan(x)\n    best=min(best,time.perf_counter()-t)\nprint(best*1e6)";
    let Some(python) = python else { return Ok(None) };
    let mut child = Command::new(python).args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    serde_json::to_writer(child.stdin.take().ok_or("no standard input")?, texts)?;
    let output = child.wait_with_output()?;
    Ok(Some(String::from_utf8(output.stdout)?.trim().parse()?))
}

/// Bodies of chats.
fn body(out: &mut String, rules: &Rules, text: &str) -> Result<bool, Failure> {
    let mut good = true;
    for (name, size, bar) in [("a chat body of 2 KB", 2 << 10, Some(15.0)), ("a chat body of 64 KB", 64 << 10, None)] {
        let body = chat::body(size, text);
        let mut times: Vec<Duration> = (0..5_000)
            .map(|_| {
                let copy = body.clone().into_bytes();
                let begun = Instant::now();
                black_box(chat::scrubbed(copy, rules));
                begun.elapsed()
            })
            .collect();
        times.sort_unstable();
        let micros = |place: usize| times[place].as_secs_f64() * 1e6;
        let (median, p99) = (micros(times.len() / 2), micros(times.len() * 99 / 100));
        let ok = bar.is_none_or(|bar| p99 <= bar);
        good &= ok;
        let told = bar.map_or(String::new(), |bar| format!(", at most {bar} {}", if ok { "ok" } else { "MISSED" }));
        writeln!(
            out,
            "\n{name} ({} bytes, some personal data): p50 {median:.1} µs, p99 {p99:.1} µs{told}",
            body.len()
        )?;
    }
    Ok(good)
}

/// Events of a stream without a placeholder, while the vault has some.
fn restoring(out: &mut String, rules: &Rules) -> Result<bool, Failure> {
    const BAR: f64 = 1.0;
    const EVENTS: usize = 1_000;
    let stream = Stream::of(EVENTS, rules);
    let mut held = false;
    let best = (0..ROUNDS * 10)
        .map(|_| {
            micros(|| {
                let (shown, holds) = stream.restore();
                held |= holds;
                shown
            })
        })
        .fold(f64::MAX, f64::min);
    let each = best / EVENTS as f64;
    let ok = each <= BAR && !held;
    writeln!(
        out,
        "\nrestoring, an event without a placeholder: {each:.2} µs, at most {BAR} {}; held back: {held}",
        if ok { "ok" } else { "MISSED" }
    )?;
    Ok(ok)
}
