//! Dates as people write them, for the one kind of date that is personal.

use std::ops::Range;
use std::sync::LazyLock;

/// Whether there is such a day, in years that people who live may be born in.
pub fn is_date(year: u32, month: u32, day: u32) -> bool {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => 0,
    };
    (1880..=2100).contains(&year) && (1..=days).contains(&day)
}

/// Whether three runs of digits are a date in any usual order.
pub fn of_runs(runs: [&[u8]; 3]) -> bool {
    if runs.iter().any(|run| run.len() > 4) {
        return false;
    }
    let [first, second, third] =
        runs.map(|run| run.iter().fold(0, |sum: u32, digit| sum * 10 + u32::from(digit - b'0')));
    let long = |run: &[u8]| run.len() == 4;
    let short = |run: &[u8]| run.len() <= 2;
    match () {
        () if long(runs[0]) && short(runs[1]) && short(runs[2]) => is_date(first, second, third),
        () if short(runs[0]) && short(runs[1]) && long(runs[2]) => {
            is_date(third, second, first) || is_date(third, first, second)
        }
        () => false,
    }
}

/// Whether two-digit years are one: only for dates that the text calls dates of birth.
pub fn of_short_runs(runs: [&[u8]; 3]) -> bool {
    if runs.iter().any(|run| run.len() > 2) {
        return false;
    }
    let [first, second, third] =
        runs.map(|run| run.iter().fold(0, |sum: u32, digit| sum * 10 + u32::from(digit - b'0')));
    is_date(1900 + third, second, first) || is_date(1900 + third, first, second) || is_date(1900 + first, second, third)
}

/// The months in the languages of Europe and in Indonesian, as dates have them, and their abbreviations.
const MONTHS: [&[&str]; 12] = [
    &[
        "january",
        "jan",
        "januar",
        "jänner",
        "janvier",
        "janv",
        "enero",
        "ene",
        "gennaio",
        "gen",
        "janeiro",
        "januari",
        "января",
        "янв",
        "stycznia",
        "styczeń",
        "ocak",
        "sty",
        "oca",
        "ledna",
        "tammikuuta",
        "ianuarie",
        "ιανουαρίου",
        "січня",
    ],
    &[
        "february",
        "feb",
        "februar",
        "février",
        "fevrier",
        "févr",
        "fév",
        "febrero",
        "febbraio",
        "fevereiro",
        "fev",
        "februari",
        "февраля",
        "фев",
        "lutego",
        "luty",
        "şubat",
        "lut",
        "února",
        "helmikuuta",
        "februarie",
        "φεβρουαρίου",
        "лютого",
        "pebruari",
    ],
    &[
        "march",
        "mar",
        "märz",
        "maerz",
        "mär",
        "mars",
        "marzo",
        "março",
        "marco",
        "maart",
        "mrt",
        "марта",
        "мар",
        "marca",
        "marzec",
        "mart",
        "března",
        "maaliskuuta",
        "martie",
        "μαρτίου",
        "березня",
        "marts",
        "maret",
    ],
    &[
        "april",
        "apr",
        "avril",
        "avr",
        "abril",
        "abr",
        "aprile",
        "апреля",
        "апр",
        "kwietnia",
        "nisan",
        "kwi",
        "nis",
        "dubna",
        "huhtikuuta",
        "aprilie",
        "απριλίου",
        "квітня",
    ],
    &[
        "may",
        "mai",
        "mayo",
        "maggio",
        "mag",
        "maio",
        "mei",
        "мая",
        "maja",
        "mayıs",
        "maj",
        "května",
        "toukokuuta",
        "μαΐου",
        "μαίου",
        "травня",
    ],
    &[
        "june",
        "jun",
        "juni",
        "juin",
        "junio",
        "giugno",
        "giu",
        "junho",
        "июня",
        "июн",
        "czerwca",
        "haziran",
        "cze",
        "června",
        "kesäkuuta",
        "iunie",
        "ιουνίου",
        "червня",
    ],
    &[
        "july",
        "jul",
        "juli",
        "juillet",
        "juil",
        "julio",
        "luglio",
        "lug",
        "julho",
        "июля",
        "июл",
        "lipca",
        "temmuz",
        "lip",
        "července",
        "heinäkuuta",
        "iulie",
        "ιουλίου",
        "липня",
    ],
    &[
        "august",
        "aug",
        "août",
        "aout",
        "agosto",
        "ago",
        "augustus",
        "августа",
        "авг",
        "sierpnia",
        "ağustos",
        "sie",
        "srpna",
        "elokuuta",
        "αυγούστου",
        "серпня",
        "agustus",
        "augusti",
    ],
    &[
        "september",
        "sept",
        "sep",
        "septembre",
        "septiembre",
        "setiembre",
        "settembre",
        "set",
        "setembro",
        "сентября",
        "сен",
        "września",
        "eylül",
        "wrz",
        "září",
        "syyskuuta",
        "septembrie",
        "σεπτεμβρίου",
        "вересня",
    ],
    &[
        "october",
        "oct",
        "oktober",
        "okt",
        "octobre",
        "octubre",
        "ottobre",
        "ott",
        "outubro",
        "out",
        "октября",
        "окт",
        "października",
        "ekim",
        "paź",
        "října",
        "lokakuuta",
        "octombrie",
        "οκτωβρίου",
        "жовтня",
    ],
    &[
        "november",
        "nov",
        "novembre",
        "noviembre",
        "novembro",
        "ноября",
        "ноя",
        "listopada",
        "kasım",
        "lis",
        "listopadu",
        "marraskuuta",
        "noiembrie",
        "νοεμβρίου",
        "листопада",
        "nopember",
    ],
    &[
        "december",
        "dec",
        "dezember",
        "dez",
        "décembre",
        "decembre",
        "déc",
        "diciembre",
        "dic",
        "dicembre",
        "dezembro",
        "декабря",
        "дек",
        "grudnia",
        "aralık",
        "gru",
        "prosince",
        "joulukuuta",
        "decembrie",
        "δεκεμβρίου",
        "грудня",
        "desember",
    ],
];

/// The first three letters of the months whose first three are ASCII, as a set of hashes. Nearly every word behind a
/// number is none, which this tells in a few instructions.
static HEADS: LazyLock<[u64; 64]> = LazyLock::new(|| {
    let mut heads = [0; 64];
    for head in MONTHS.iter().copied().flatten().filter_map(|name| name.as_bytes().first_chunk()) {
        let (word, bit) = place_of(head);
        heads[word] |= bit;
    }
    heads
});

fn place_of(head: &[u8; 3]) -> (usize, u64) {
    let [first, second, third] = head.map(|byte| usize::from(byte & 0x1f));
    let place = (first | second << 5 | third << 10) % 4_093;
    (place / 64, 1 << (place % 64))
}

/// Whether a month may begin `text`.
fn may_be_month(text: &[u8]) -> bool {
    let Some(head) = text.first_chunk::<3>() else { return false };
    let (word, bit) = place_of(head);
    !head.is_ascii() || HEADS[word] & bit != 0
}

/// The month that `word` names.
fn month(word: &str) -> Option<u32> {
    if !(3..=20).contains(&word.len()) || !may_be_month(word.as_bytes()) {
        return None;
    }
    let word = word.to_lowercase();
    MONTHS.iter().zip(1..).find_map(|(names, number)| names.contains(&word.as_str()).then_some(number))
}

/// The date in words that the number at `number` belongs to: `8 December 1985`, `September 8, 1984`, `1998年1月2日`.
pub fn in_words(text: &str, number: Range<usize>) -> Option<Range<usize>> {
    let digits = &text[number.clone()];
    let rest = &text[number.end..];
    if digits.len() == 4 {
        return chinese(text, number);
    }
    if digits.len() > 2 {
        return None;
    }
    let day: u32 = digits.parse().ok()?;
    let after =
        rest.strip_prefix("st").or(rest.strip_prefix("nd")).or(rest.strip_prefix("rd")).or(rest.strip_prefix("th"));
    let after = after.or(rest.strip_prefix("er")).or(rest.strip_prefix('.')).unwrap_or(rest);
    let after = after.trim_start_matches([' ', '-']);
    let after = ["of ", "de "].iter().find_map(|word| after.strip_prefix(word)).unwrap_or(after);
    if after.starts_with(char::is_alphabetic) {
        if !may_be_month(after.as_bytes()) {
            return None;
        }
        let length = after.find(|character: char| !character.is_alphabetic()).unwrap_or(after.len());
        if let Some(month) = month(&after[..length]) {
            let rest = &after[length..];
            let rest = rest.strip_prefix('.').unwrap_or(rest).trim_start_matches([' ', ',', '-']);
            let rest = ["of ", "de ", "del "].iter().find_map(|word| rest.strip_prefix(word)).unwrap_or(rest);
            let end = year_at(rest, month, day)?;
            return Some(number.start..text.len() - rest.len() + end);
        }
        return None;
    }
    // The month before: "May 20, 1986", "Sept. 8th 1984".
    let before = text[..number.start].trim_end_matches([' ', '.']);
    if before.len() == number.start {
        return None;
    }
    let start = before.char_indices().rev().take_while(|(_, character)| character.is_alphabetic()).last()?.0;
    let month = month(&before[start..])?;
    let rest = after.trim_start_matches([',', ' ']);
    let end = year_at(rest, month, day)?;
    Some(start..text.len() - rest.len() + end)
}

/// The length of a year at the start of `rest` that makes a date.
fn year_at(rest: &str, month: u32, day: u32) -> Option<usize> {
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let year: u32 = rest[..digits].parse().ok()?;
    (digits == 4 && is_date(year, month, day)).then_some(digits)
}

/// `1998年1月2日`, also with blanks, and without the last sign.
fn chinese(text: &str, year: Range<usize>) -> Option<Range<usize>> {
    let number = |rest: &str| -> Option<(u32, usize)> {
        let rest_trimmed = rest.trim_start_matches(' ');
        let skipped = rest.len() - rest_trimmed.len();
        let digits = rest_trimmed.bytes().take_while(u8::is_ascii_digit).count();
        (1..=2).contains(&digits).then_some(())?;
        Some((rest_trimmed[..digits].parse().ok()?, skipped + digits))
    };
    let sign = |rest: &str, signs: &[&str]| -> Option<usize> {
        let trimmed = rest.trim_start_matches(' ');
        let sign = signs.iter().find(|sign| trimmed.starts_with(**sign))?;
        Some(rest.len() - trimmed.len() + sign.len())
    };
    let mut at = year.end;
    at += sign(&text[at..], &["年", "년"])?;
    let (month, length) = number(&text[at..])?;
    at += length;
    at += sign(&text[at..], &["月", "월"])?;
    let (day, length) = number(&text[at..])?;
    at += length;
    let end = at + sign(&text[at..], &["日", "号", "號", "일"]).unwrap_or(0);
    let value: u32 = text[year.clone()].parse().ok()?;
    is_date(value, month, day).then_some(year.start..end)
}

/// `03OCT1976`, as travel documents print it.
pub fn is_compact(word: &str) -> bool {
    let (Some(day), Some(name), Some(year)) = (word.get(..2), word.get(2..5), word.get(5..)) else { return false };
    let (Ok(day), Ok(year)) = (day.parse(), year.parse()) else { return false };
    month(name).is_some_and(|month| is_date(year, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, number: &str) -> Option<String> {
        let at = text.find(number).unwrap();
        in_words(text, at..at + number.len()).map(|range| text[range].to_owned())
    }

    #[test]
    fn dates_in_words_are_read_whole() {
        assert_eq!(found("born 15 November 1972, no", "15").as_deref(), Some("15 November 1972"));
        assert_eq!(found("(born September 8, 1984)", "8").as_deref(), Some("September 8, 1984"));
        assert_eq!(found("on the 3rd of Feb 1990", "3").as_deref(), Some("3rd of Feb 1990"));
        assert_eq!(found("am 3. März 1990", "3").as_deref(), Some("3. März 1990"));
        assert_eq!(found("el 3 de enero de 1990", "3").as_deref(), Some("3 de enero de 1990"));
        assert_eq!(found("生于1955年3月16日，", "1955").as_deref(), Some("1955年3月16日"));
        assert_eq!(found("room 12 Maybe 2014", "12"), None);
        assert_eq!(found("31 February 1990", "31"), None);
    }

    #[test]
    fn runs_of_digits_are_dates_only_if_the_day_exists() {
        assert!(
            of_runs([b"1969", b"04", b"18"]) && of_runs([b"16", b"04", b"1958"]) && of_runs([b"11", b"28", b"1990"])
        );
        assert!(
            !of_runs([b"1969", b"13", b"18"]) && !of_runs([b"31", b"04", b"1958"]) && !of_runs([b"30", b"02", b"2000"])
        );
    }
}
