//! What of a managed prompt is chosen for a conversation: rules by what is known of the user, examples and tools by what
//! the conversation is about.

use crate::filter::Filter;
use serde_json::Value;
use sluice_text::{
    Condition, Embedder, HISTORY, Message, PLACEHOLDER, PROFILE, RenderError, Template, Variable, Variables,
};
use std::collections::BTreeMap;

/// When a rule applies.
#[derive(Debug)]
pub enum When {
    /// An expression over variables and profile.
    Expression(Box<Condition>),
    /// Conditions on the profile alone, in the form of filters.
    Profile(Filter),
}

impl When {
    /// Reads a string as an expression, whose names must be declared, and an object as a filter of the profile.
    pub fn parse(written: &Value, declared: &BTreeMap<String, Variable>) -> Result<When, String> {
        match written {
            Value::String(expression) => Condition::compile(expression, declared)
                .map(|condition| When::Expression(Box::new(condition)))
                .map_err(|error| error.to_string()),
            Value::Object(_) => Filter::parse(written).map(When::Profile),
            _ => Err("it must be an expression, or an object with `must`, `should` and `must_not`".to_owned()),
        }
    }

    /// Whether it applies with these values.
    pub fn holds(&self, values: &Variables) -> bool {
        match self {
            When::Expression(condition) => condition.holds(values),
            When::Profile(filter) => match values.get(PROFILE) {
                Some(Value::Object(profile)) => filter.admits(profile),
                _ => filter.admits(&Variables::new()),
            },
        }
    }
}

/// A rendered prompt, in the parts that the conversation stands between.
#[derive(Debug, Default)]
pub struct Rendered {
    /// Before the conversation: the prompt's messages, then the texts of its rules.
    pub opening: Vec<Message>,
    /// Behind the conversation's last turn.
    pub closing: Vec<Message>,
    /// How many rules applied.
    pub rules: usize,
}

/// Renders `template`, whose last messages are the texts of `rules`, each where it applies; without `adapted` none does.
pub fn render(template: &Template, rules: &[When], adapted: bool, values: &Variables) -> Result<Rendered, RenderError> {
    let own = template.len() - rules.len();
    let applying: Vec<bool> = match adapted && !rules.is_empty() {
        true => {
            let known = template.with_defaults(values);
            rules.iter().map(|rule| rule.holds(&known)).collect()
        }
        false => vec![false; rules.len()],
    };
    let mut opening = template.render_some(values, |place| place < own || applying[place - own])?;
    let rules = applying.into_iter().filter(|applies| *applies).count();
    let texts = opening.split_off(opening.len() - rules);
    let is_history = |message: &Message| message.role == PLACEHOLDER && message.text == HISTORY;
    let mut closing = Vec::new();
    if let Some(place) = opening.iter().position(is_history) {
        closing = opening.split_off(place + 1);
        opening.pop();
    }
    opening.extend(texts);
    Ok(Rendered { opening, closing, rules })
}

/// Texts of which those are chosen that are most like a question.
#[derive(Debug)]
pub struct Pool {
    /// `None` for a text in which the model knows nothing.
    vectors: Vec<Option<Vec<f32>>>,
}

impl Pool {
    pub fn of(texts: impl Iterator<Item = impl AsRef<str>>, embedder: &Embedder) -> Pool {
        Pool { vectors: texts.map(|text| embedder.embed(text.as_ref())).collect() }
    }

    /// The places of the `most` texts that are most like `question`, the likest last. Where the model knows nothing of
    /// the question, the first of the pool.
    pub fn nearest(&self, question: &str, most: usize, embedder: &Embedder) -> Vec<usize> {
        let question = embedder.embed(question);
        let score = |vector: &Option<Vec<f32>>| match (vector, &question) {
            (Some(vector), Some(question)) => vector.iter().zip(question).map(|(left, right)| left * right).sum(),
            _ => -1.0f32,
        };
        let mut scored: Vec<(f32, usize)> = self.vectors.iter().map(score).zip(0..).collect();
        scored.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
        let mut chosen: Vec<usize> = scored.into_iter().take(most).map(|(_, place)| place).collect();
        chosen.reverse();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_ask_the_profile_in_two_forms() {
        let values = |value: Value| value.as_object().cloned().unwrap();
        let parse = |when: Value| When::parse(&when, &BTreeMap::new());
        let expert = values(json!({"profile": {"level": "expert", "years": 12}}));
        for when in [
            json!("profile.level == 'expert'"),
            json!({"must": {"key": "level", "match": {"value": "expert"}}}),
            json!({"must": [{"key": "years", "range": {"gte": 10}}]}),
        ] {
            let when = parse(when).unwrap();
            assert!(when.holds(&expert));
            assert!(!when.holds(&Variables::new()));
        }
        let unknown = parse(json!({"must": {"is_empty": {"key": "level"}}})).unwrap();
        assert!(unknown.holds(&Variables::new()) && !unknown.holds(&expert));
        assert!(parse(json!("tone == 'x'")).unwrap_err().contains("tone"));
        assert!(parse(json!({"level": "expert"})).unwrap_err().contains("filter.level"));
        assert!(parse(json!(3)).is_err());
    }

    #[test]
    fn a_rule_adds_its_text_for_those_it_is_for() {
        let messages = [("system", "Help."), ("system", "Explain to {{ profile.name }}.")];
        let messages = messages.map(|(role, text)| (role.to_owned(), text.to_owned()));
        let tone = Variable { default: Some(json!("kind")), ..Variable::default() };
        let declared = BTreeMap::from([("tone".to_owned(), tone)]);
        let template = Template::compile(&messages, &BTreeMap::new(), Some(declared)).unwrap();
        let rules = [When::parse(&json!("profile.level == 'new' and tone == 'kind'"), template.variables()).unwrap()];
        let texts = |values: Value| -> Vec<String> {
            let rendered = render(&template, &rules, true, values.as_object().unwrap()).unwrap();
            rendered.opening.into_iter().map(|message| message.text).collect()
        };
        assert_eq!(texts(json!({"profile": {"level": "new", "name": "Ann"}})), ["Help.", "Explain to Ann."]);
        assert_eq!(texts(json!({"profile": {"level": "new"}, "tone": "curt"})), ["Help."]);
        assert_eq!(texts(json!({})), ["Help."]);
    }

    #[test]
    fn the_conversation_stands_where_the_prompt_has_its_place() {
        let messages = [
            ("system", "Help {{ name }}."),
            ("placeholder", "earlier"),
            ("placeholder", "history"),
            ("user", "Answer in French."),
            ("system", "A rule."),
        ];
        let messages = messages.map(|(role, text)| (role.to_owned(), text.to_owned()));
        let template = Template::compile(&messages, &BTreeMap::new(), None).unwrap();
        assert_eq!(template.variables().keys().collect::<Vec<_>>(), ["earlier", "name"]);
        let rules = [When::parse(&json!("name == 'Ann'"), template.variables()).unwrap()];
        let rendered = |values: Value, adapted| {
            let values = values.as_object().cloned().unwrap();
            render(&template, &rules, adapted, &values).map_err(|error| error.to_string())
        };
        let texts = |messages: &[Message]| {
            messages.iter().map(|message| format!("{}: {}", message.role, message.text)).collect::<Vec<_>>()
        };
        let earlier = json!([{"role": "user", "content": "{{ name }}?"}, {"role": "assistant", "content": "Yes."}]);
        let found = rendered(json!({"name": "Ann", "earlier": earlier}), true).unwrap();
        assert_eq!(
            texts(&found.opening),
            ["system: Help Ann.", "user: {{ name }}?", "assistant: Yes.", "system: A rule."]
        );
        assert_eq!((texts(&found.closing), found.rules), (vec!["user: Answer in French.".to_owned()], 1));
        let found = rendered(json!({"name": "Ann", "earlier": []}), false).unwrap();
        assert_eq!((texts(&found.opening), found.rules), (vec!["system: Help Ann.".to_owned()], 0));
        assert!(rendered(json!({"name": "Ann"}), true).unwrap_err().contains("earlier"));
        for wrong in [json!("text"), json!([{"role": "system", "content": "Obey."}]), json!([{"role": "user"}])] {
            let refused = rendered(json!({"name": "Ann", "earlier": wrong}), true).unwrap_err();
            assert!(refused.contains("earlier") && refused.contains("role"), "{refused}");
        }
        for (place, wrong) in [(2, "two words"), (1, "history")] {
            let mut messages = messages.clone();
            messages[place].1 = wrong.to_owned();
            assert!(Template::compile(&messages, &BTreeMap::new(), None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_most_like_the_question_is_chosen_and_stands_last() {
        let embedder = Embedder::shipped().unwrap();
        let texts = ["How do I return a tent?", "What is the weather in Rome?", "Which sleeping bag is warm?", "🙂"];
        let pool = Pool::of(texts.into_iter(), embedder);
        assert_eq!(pool.nearest("Will it rain in Paris tomorrow?", 1, embedder), [1]);
        let two = pool.nearest("I want to send my tent back", 2, embedder);
        assert_eq!(two[1], 0);
        assert_eq!(pool.nearest("🙂", 2, embedder), [1, 0]);
        assert_eq!(pool.nearest("tent", 9, embedder).len(), 4);
    }
}
