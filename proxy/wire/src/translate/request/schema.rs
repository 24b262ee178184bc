//! Google's older schemas (a subset of OpenAPI 3.0's) as JSON schemas, and what OpenAI calls a strict schema.

use super::write::Writer;
use crate::json::{Document, Kind, Value};

/// A Google `Schema` as a JSON schema: types in lower case, `nullable` as a type, counts that protocol buffers spell
/// as strings as numbers. `propertyOrdering` has no counterpart and no bearing on what is valid; everything else is
/// copied.
pub fn json_schema(schema: Value<'_>) -> String {
    let mut writer = Writer::with_capacity(schema.raw().len());
    write(schema, &mut writer);
    writer.finish()
}

fn write(schema: Value<'_>, writer: &mut Writer) {
    if schema.kind() != Kind::Object {
        writer.raw(schema.raw());
        return;
    }
    let nullable = schema.get("nullable").is_some_and(|nullable| nullable.raw() == "true");
    let typed = schema.get("type").is_some_and(|kind| kind.kind() == Kind::String);
    writer.open('{');
    for member in schema.children() {
        let Some(key) = member.key() else { continue };
        match &*key {
            "nullable" | "propertyOrdering" | "property_ordering" => {}
            "type" => write_type(member, nullable, writer),
            "properties" => {
                writer.key("properties").open('{');
                for property in member.children() {
                    key_of(property, writer);
                    write(property, writer);
                }
                writer.close('}');
            }
            "items" | "additionalProperties" => {
                key_of(member, writer);
                write(member, writer);
            }
            "anyOf" | "any_of" => {
                writer.key("anyOf").open('[');
                member.children().for_each(|option| write(option, writer));
                if nullable && !typed {
                    writer.raw("{\"type\":\"null\"}");
                }
                writer.close(']');
            }
            "enum" if nullable => {
                writer.key("enum").open('[');
                member.children().for_each(|option| {
                    writer.raw(option.raw());
                });
                writer.raw("null").close(']');
            }
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => {
                key_of(member, writer);
                writer.raw(count(member));
            }
            "min_items" => write_count("minItems", member, writer),
            "max_items" => write_count("maxItems", member, writer),
            "min_length" => write_count("minLength", member, writer),
            "max_length" => write_count("maxLength", member, writer),
            "min_properties" => write_count("minProperties", member, writer),
            "max_properties" => write_count("maxProperties", member, writer),
            _ => {
                key_of(member, writer);
                writer.raw(member.raw());
            }
        }
    }
    writer.close('}');
}

/// Writes a member's key as it was written.
fn key_of(member: Value<'_>, writer: &mut Writer) {
    if let Some(key) = member.key() {
        let mut escaped = String::with_capacity(key.len());
        crate::json::escape_into(&key, &mut escaped);
        writer.key(&escaped);
    }
}

fn write_type(kind: Value<'_>, nullable: bool, writer: &mut Writer) {
    let Some(name) = kind.string() else {
        writer.key("type").raw(kind.raw());
        return;
    };
    let name = name.to_ascii_lowercase();
    match nullable {
        _ if name == "type_unspecified" => {}
        true => {
            writer.key("type").open('[').text(&name).text("null").close(']');
        }
        false => {
            writer.key("type").text(&name);
        }
    }
}

fn write_count(key: &str, member: Value<'_>, writer: &mut Writer) {
    writer.key(key).raw(count(member));
}

fn count(member: Value<'_>) -> &str {
    let raw = member.raw();
    let digits = raw.trim_matches('"');
    let is_count = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A number may not begin with a zero that is not all of it.
    if is_count && (digits == "0" || !digits.starts_with('0')) { digits } else { raw }
}

/// Keywords that OpenAI's strict schemas may not hold.
const LOOSE: [&str; 7] = ["allOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas", "patternProperties"];

/// Whether OpenAI would take the schema as a strict one: every object is closed and all its properties are required.
pub fn is_strict(schema: &str) -> bool {
    let Ok(document) = Document::parse(schema) else { return false };
    let root = document.root(schema);
    root.get("properties").is_some()
        && root.descendants().filter(|value| value.kind() == Kind::Object).all(|value| {
            LOOSE.iter().all(|keyword| value.get(keyword).is_none()) && (!is_object_schema(value) || is_closed(value))
        })
}

fn is_object_schema(value: Value<'_>) -> bool {
    value.get("type").is_some_and(|kind| kind.raw().contains("\"object\""))
        || value.get("properties").is_some_and(|properties| properties.kind() == Kind::Object)
}

fn is_closed(value: Value<'_>) -> bool {
    let required = value.get("required");
    let is_required = |name: &str| {
        required.is_some_and(|required| required.children().any(|entry| entry.string().as_deref() == Some(name)))
    };
    value.get("additionalProperties").is_some_and(|additional| additional.raw() == "false")
        && value.get("properties").is_some_and(|properties| {
            properties.children().all(|property| property.key().is_some_and(|name| is_required(&name)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(schema: &str) -> String {
        json_schema(Document::parse(schema).unwrap().root(schema))
    }

    #[test]
    fn a_google_schema_becomes_a_json_schema_with_its_numbers_as_written() {
        let google = r#"{"type":"OBJECT","properties":{"type":{"type":"STRING","nullable":true,"enum":["A"]},
            "n":{"type":"INTEGER","minimum":1.0e0},"l":{"type":"ARRAY","items":{"type":"BOOLEAN"},"minItems":"2"},
            "u":{"any_of":[{"type":"NUMBER"}],"nullable":true}},"required":["n"],"propertyOrdering":["n"]}"#;
        assert_eq!(
            converted(google),
            r#"{"type":"object","properties":{"type":{"type":["string","null"],"enum":["A",null]},"n":{"type":"integer","minimum":1.0e0},"l":{"type":"array","items":{"type":"boolean"},"minItems":2},"u":{"anyOf":[{"type":"number"},{"type":"null"}]}},"required":["n"]}"#
        );
    }

    #[test]
    fn a_schema_is_strict_when_every_object_is_closed_and_complete() {
        for (schema, strict) in [
            (
                r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}"#,
                true,
            ),
            (
                r#"{"type":"object","properties":{"a":{"type":"string"}},"required":[],"additionalProperties":false}"#,
                false,
            ),
            (r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}"#, false),
            (
                r#"{"type":"object","properties":{"a":{"type":"object","properties":{}}},"required":["a"],"additionalProperties":false}"#,
                false,
            ),
            (
                r#"{"type":"object","properties":{"a":{"oneOf":[]}},"required":["a"],"additionalProperties":false}"#,
                false,
            ),
            (r#"{"type":"array"}"#, false),
            ("nonsense", false),
        ] {
            assert_eq!(is_strict(schema), strict, "{schema}");
        }
    }
}
