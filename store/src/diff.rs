//! What differs between two versions.

use crate::content::Kind;
use crate::{StoreError, Tenancy, Version};
use serde_json::Value;
use similar::TextDiff;

impl Tenancy {
    /// A unified diff of two versions' contents, part by part; empty where they are equal.
    pub async fn diff(&self, kind: Kind, alias: &str, from: i64, to: i64) -> Result<String, StoreError> {
        let old = self.version(kind, alias, Some(from)).await?;
        let new = self.version(kind, alias, Some(to)).await?;
        let (before, after) = (text(&old), text(&new));
        let names = (format!("{alias}@{from}"), format!("{alias}@{to}"));
        Ok(TextDiff::from_lines(&before, &after).unified_diff().header(&names.0, &names.1).to_string())
    }
}

/// A version as lines: templates as they are, everything else as JSON.
fn text(version: &Version) -> String {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let Some(content) = version.content.template() else {
        return pretty(&serde_json::json!(version.content)) + "\n";
    };
    let mut out = String::new();
    for message in &content.messages {
        out.push_str(&format!("[{}]\n{}\n", message.role, message.content));
    }
    for (name, part) in [
        ("variables", serde_json::json!(content.variables)),
        ("parameters", serde_json::json!(content.parameters)),
        ("metadata", serde_json::json!(content.metadata)),
        ("behavior", content.behavior()),
    ] {
        out.push_str(&format!("[{name}]\n{}\n", pretty(&part)));
    }
    out
}
