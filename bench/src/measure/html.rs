//! The report as one HTML page that needs nothing else.

use super::outcome::Series;
use super::report::{Measured, table};
use std::fmt::Write as _;

/// Colours that people with any colour vision tell apart (Okabe, Ito 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Size of a plot, and the room for its axes, in CSS pixels.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 34.0;

/// The page.
pub fn page(measured: &Measured, title: &str) -> String {
    let wholes: Vec<Series> = (0..measured.names.len()).map(|place| measured.whole(place)).collect();
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>",
    );
    escape(title, &mut out);
    out.push_str("</title><style>:root{color-scheme:light dark;--ink:#222;--faint:#8884}@media(prefers-color-scheme:dark){:root{--ink:#ddd}}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:var(--ink)}pre{overflow-x:auto;font-size:12px}svg{max-width:100%;height:auto}svg text{fill:var(--ink);font-size:12px}.grid{stroke:var(--faint)}h2{margin-top:2rem}.key span{margin-right:1.2em}</style></head><body><h1>");
    escape(title, &mut out);
    out.push_str("</h1><p class=\"key\">");
    for (place, name) in measured.names.iter().enumerate() {
        let _ = write!(out, "<span style=\"color:{}\">■ ", COLOURS[place % COLOURS.len()]);
        escape(name, &mut out);
        out.push_str("</span>");
    }
    out.push_str("</p>");
    let lines = wholes.iter().map(|whole| by_percentile(&whole.total)).collect::<Vec<_>>();
    plot("Total time by percentile", &lines, &PERCENTILE_TICKS, &mut out);
    if wholes.iter().any(|whole| !whole.first.is_empty()) {
        let lines = wholes.iter().map(|whole| by_percentile(&whole.first)).collect::<Vec<_>>();
        plot("Time to first token by percentile", &lines, &PERCENTILE_TICKS, &mut out);
    }
    over_time(&wholes, &mut out);
    steps(measured, &wholes, &mut out);
    out.push_str("<h2>Figures</h2><pre>");
    escape(&table(measured), &mut out);
    out.push_str("</pre><script type=\"application/json\" id=\"figures\">");
    // `<` cannot end the element when it is written so.
    out.push_str(&measured.json().to_string().replace('<', "\\u003c"));
    out.push_str("</script></body></html>\n");
    out
}

/// Where percentiles stand on the axis: as powers of ten of what is left above them.
const PERCENTILE_TICKS: [(f64, &str); 5] =
    [(0.301, "p50"), (1.0, "p90"), (2.0, "p99"), (3.0, "p99.9"), (4.0, "p99.99")];

type Line = Vec<(f64, f64)>;

fn by_percentile(times: &hdrhistogram::Histogram<u64>) -> Line {
    if times.is_empty() {
        return Line::new();
    }
    let most = (times.len() as f64).log10().min(4.0);
    let steps = 120;
    let place = |step: usize| most * step as f64 / steps as f64;
    (0..=steps).map(|step| (place(step), times.value_at_quantile(1.0 - 10f64.powf(-place(step))) as f64)).collect()
}

/// Median of each of sixty spans of the run.
fn over_time(wholes: &[Series], out: &mut String) {
    const SPANS: usize = 60;
    let end = wholes.iter().flat_map(|whole| &whole.points).map(|point| point.0).max().unwrap_or(0) as usize + 1;
    let line = |whole: &Series| -> Line {
        let mut spans: Vec<Vec<u32>> = vec![Vec::new(); SPANS];
        whole.points.iter().for_each(|(at, took)| spans[*at as usize * SPANS / end].push(*took));
        let medians = spans.iter_mut().enumerate().filter(|(_, span)| !span.is_empty()).map(|(place, span)| {
            span.sort_unstable();
            ((place as f64 + 0.5) * end as f64 / SPANS as f64 / 1e3, f64::from(span[span.len() / 2]))
        });
        medians.collect()
    };
    let lines: Vec<Line> = wholes.iter().map(line).collect();
    let last = end as f64 / 1e3;
    let ticks = [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| (share * last, format!("{:.1} s", share * last)));
    let ticks: Vec<(f64, &str)> = ticks.iter().map(|(at, name)| (*at, name.as_str())).collect();
    plot("Median over a round, all rounds laid over each other", &lines, &ticks, out);
}

/// A plot with a logarithmic axis of times.
fn plot(title: &str, lines: &[Line], ticks: &[(f64, &str)], out: &mut String) {
    let values = || lines.iter().flatten();
    let (Some(right), Some(least), Some(most)) = (
        values().map(|point| point.0).reduce(f64::max),
        values().map(|point| point.1).reduce(f64::min),
        values().map(|point| point.1).reduce(f64::max),
    ) else {
        return;
    };
    let (low, high) = (least.max(1.0).log10() - 0.05, most.max(2.0).log10() + 0.05);
    let x = |at: f64| LEFT + at / right.max(1e-9) * (WIDTH - LEFT - 10.0);
    let y = |value: f64| 10.0 + (high - value.max(1.0).log10()) / (high - low) * (HEIGHT - BOTTOM - 10.0);
    let _ = write!(out, "<h2>{title}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
    let decades = (low.floor() as i32..=high.ceil() as i32)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(power)));
    for value in decades.filter(|value| (low..=high).contains(&value.log10())) {
        let at = y(value);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            super::report::told(value)
        );
    }
    for (at, name) in ticks.iter().filter(|(at, _)| *at <= right + 1e-9) {
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            x(*at).min(WIDTH - 24.0),
            HEIGHT - 10.0
        );
    }
    for (place, line) in lines.iter().enumerate() {
        let points: Vec<String> = line.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = write!(
            out,
            "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"{}\" points=\"{}\"/>",
            COLOURS[place % COLOURS.len()],
            points.join(" ")
        );
    }
    out.push_str("</svg>");
}

/// Bars of the median of each step that servers tell.
fn steps(measured: &Measured, wholes: &[Series], out: &mut String) {
    for (name, whole) in measured.names.iter().zip(wholes).filter(|(_, whole)| !whole.steps.is_empty()) {
        out.push_str("<h2>Steps of ");
        escape(name, out);
        out.push_str(" (server-timing, median; bars logarithmic)</h2><table>");
        let median = |times: &hdrhistogram::Histogram<u64>| times.value_at_percentile(50.0) as f64 / 100.0;
        let most = whole.steps.values().map(median).fold(1.0, f64::max);
        for (step, times) in &whole.steps {
            let width = 420.0 * (median(times) + 1.0).log10() / (most + 1.0).log10();
            out.push_str("<tr><td>");
            escape(step, out);
            let _ = write!(
                out,
                "</td><td style=\"text-align:right\">{:.1} µs</td><td><svg width=\"430\" height=\"12\" viewBox=\"0 0 430 12\"><rect width=\"{width:.1}\" height=\"12\" fill=\"{}\"/></svg></td></tr>",
                median(times),
                COLOURS[0]
            );
        }
        out.push_str("</table>");
    }
}

fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
}
