//! OpenAI's chat messages, written.

use crate::json::escape_into;

/// `{"role":…,"content":…},` ready to stand before another message.
pub fn message_before_another(role: &str, content: &str) -> String {
    let mut out = String::with_capacity(content.len() + content.len() / 8 + 40);
    out.push_str("{\"role\":\"");
    escape_into(role, &mut out);
    out.push_str("\",\"content\":\"");
    escape_into(content, &mut out);
    out.push_str("\"},");
    out
}
