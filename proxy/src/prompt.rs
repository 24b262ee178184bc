//! Managed prompts as an edge holds them, and which version a request gets.

use sluice_index::{Pool, When};
use sluice_policies::experiment::place;
use sluice_segment::{ArchivedExperiment, ArchivedPrompt, ArchivedPromptMessage, ArchivedPromptVersion};
use sluice_text::{Embedder, Message, Partials, Template, Variable};
use sluice_wire::Tool;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// The alias that stands for the tenant's default prompt.
pub const DEFAULT: &str = "default";

/// A prompt in force in an environment.
pub struct PromptEntry {
    pub alias: String,
    pub environment: String,
    /// Whether requests with it get retrieved context, and the texts, examples and tools that are chosen for them.
    pub context: bool,
    version: Arc<VersionEntry>,
    experiment: Option<ExperimentEntry>,
}

/// One version with what it includes, compiled when it is first used.
pub struct VersionEntry {
    pub number: u32,
    compiled: OnceLock<Result<Compiled, String>>,
    /// Role and template of its messages, then of its rules' texts.
    messages: Vec<(String, String)>,
    /// When each rule applies, as JSON.
    rules: Vec<String>,
    /// What is sent where it cannot be rendered; empty where that fails the request.
    pub fallback: Vec<Message>,
    pub examples: Choice<Example>,
    pub tools: Choice<Tool>,
    partials: Partials,
    variables: BTreeMap<String, Variable>,
    /// Members of a request and their JSON, used where the caller gives none.
    pub parameters: Vec<(String, String)>,
    /// The model of the parameters, for targets that name none.
    pub model: Option<String>,
}

/// What is rendered.
pub struct Compiled {
    pub template: Template,
    pub rules: Vec<When>,
}

/// A question and its answer.
pub struct Example {
    pub input: String,
    pub output: String,
}

/// Things of which a conversation gets those that fit what it began with.
pub struct Choice<T> {
    all: Vec<T>,
    most: usize,
    pool: OnceLock<Pool>,
}

impl<T> Choice<T> {
    fn of(all: Vec<T>, most: u32) -> Choice<T> {
        Choice { all, most: most as usize, pool: OnceLock::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those for `question`, the likest last; `text` is what they are known by. All of them, as they are listed, where
    /// there are no more than may be.
    pub fn chosen(&self, question: &str, text: impl Fn(&T) -> String, embedder: Option<&Embedder>) -> Vec<&T> {
        let (true, Some(embedder)) = (self.all.len() > self.most, embedder) else {
            return self.all.iter().take(self.most).collect();
        };
        let pool = self.pool.get_or_init(|| Pool::of(self.all.iter().map(text), embedder));
        pool.nearest(question, self.most, embedder).into_iter().filter_map(|place| self.all.get(place)).collect()
    }
}

struct ExperimentEntry {
    name: String,
    seed: String,
    unit: Unit,
    arms: Vec<(String, std::ops::Range<u64>, Arc<VersionEntry>)>,
}

/// What an experiment counts as one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    Session,
    Subject,
    Key,
    Request,
}

/// What a request belongs to, as far as it says.
pub struct Units<'r> {
    pub session: Option<&'r str>,
    pub subject: Option<&'r str>,
    pub key: [u8; 16],
    pub request: &'r [u8],
}

/// The prompt that a request gets.
pub struct Chosen {
    pub alias: String,
    pub environment: String,
    pub context: bool,
    pub version: Arc<VersionEntry>,
    /// Experiment and arm, if the request's unit is in one.
    pub arm: Option<(String, String)>,
}

impl PromptEntry {
    pub fn new(prompt: &ArchivedPrompt) -> PromptEntry {
        PromptEntry {
            alias: prompt.alias.as_str().to_owned(),
            environment: prompt.environment.as_str().to_owned(),
            context: prompt.context,
            version: Arc::new(VersionEntry::new(&prompt.version)),
            experiment: prompt.experiment.as_ref().and_then(ExperimentEntry::new),
        }
    }

    /// What a tenant without prompts has as its default: compiled in, so that it is there whatever happens.
    pub fn built_in() -> PromptEntry {
        let text = "You are a helpful assistant. Answer truthfully, and say so when you do not know.";
        let version = VersionEntry {
            number: 0,
            compiled: OnceLock::new(),
            messages: vec![("system".to_owned(), text.to_owned())],
            rules: Vec::new(),
            fallback: Vec::new(),
            examples: Choice::of(Vec::new(), 0),
            tools: Choice::of(Vec::new(), 0),
            partials: Partials::new(),
            variables: BTreeMap::new(),
            parameters: Vec::new(),
            model: None,
        };
        PromptEntry {
            alias: DEFAULT.to_owned(),
            environment: String::new(),
            context: true,
            version: Arc::new(version),
            experiment: None,
        }
    }

    /// The version for a request: its arm's while an experiment runs that it takes part in, the deployed one otherwise.
    pub fn choose(&self, units: &Units<'_>) -> Chosen {
        let found = self.experiment.as_ref().and_then(|experiment| experiment.choose(units));
        let (version, arm) = match found {
            Some((version, arm)) => (version, Some(arm)),
            None => (&self.version, None),
        };
        Chosen {
            alias: self.alias.clone(),
            environment: self.environment.clone(),
            context: self.context,
            version: Arc::clone(version),
            arm,
        }
    }
}

impl ExperimentEntry {
    /// `None` for one whose unit this program does not know: everybody gets what is deployed.
    fn new(experiment: &ArchivedExperiment) -> Option<ExperimentEntry> {
        let unit = match experiment.unit.as_str() {
            "session" => Unit::Session,
            "subject" => Unit::Subject,
            "key" => Unit::Key,
            "request" => Unit::Request,
            _ => return None,
        };
        let arms = experiment.arms.iter().map(|arm| {
            let range = arm.from.to_native()..arm.to.to_native();
            (arm.name.as_str().to_owned(), range, Arc::new(VersionEntry::new(&arm.version)))
        });
        Some(ExperimentEntry {
            name: experiment.name.as_str().to_owned(),
            seed: experiment.seed.as_str().to_owned(),
            unit,
            arms: arms.collect(),
        })
    }

    fn choose(&self, units: &Units<'_>) -> Option<(&Arc<VersionEntry>, (String, String))> {
        let unit = match self.unit {
            Unit::Session => units.session?.as_bytes(),
            Unit::Subject => units.subject?.as_bytes(),
            Unit::Key => units.key.as_slice(),
            Unit::Request => units.request,
        };
        let place = place(&self.seed, unit);
        let (name, _, version) = self.arms.iter().find(|(_, range, _)| range.contains(&place))?;
        Some((version, (self.name.clone(), name.clone())))
    }
}

impl VersionEntry {
    fn new(version: &ArchivedPromptVersion) -> VersionEntry {
        let variables = version.variables.iter().map(|variable| {
            let declaration = serde_json::from_str(variable.declaration.as_str()).unwrap_or_default();
            (variable.name.as_str().to_owned(), declaration)
        });
        let parameters: serde_json::Map<_, _> = serde_json::from_str(version.parameters.as_str()).unwrap_or_default();
        let model = parameters.get("model").and_then(|model| model.as_str()).map(str::to_owned);
        let partial = |partial: &sluice_segment::ArchivedPartial| {
            (partial.name.as_str().to_owned(), partial.template.as_str().to_owned())
        };
        let pair =
            |message: &ArchivedPromptMessage| (message.role.as_str().to_owned(), message.template.as_str().to_owned());
        let message = |(role, text)| Message { role, text };
        let rules = version.rules.iter();
        let examples = version.examples.iter().map(|example| Example {
            input: example.input.as_str().to_owned(),
            output: example.output.as_str().to_owned(),
        });
        let tools = version.tools.iter().map(|tool| Tool {
            name: tool.name.as_str().to_owned(),
            description: tool.description.as_str().to_owned(),
            parameters: tool.parameters.as_str().to_owned(),
        });
        VersionEntry {
            number: version.number.to_native(),
            compiled: OnceLock::new(),
            messages: version.messages.iter().chain(rules.clone().map(|rule| &rule.message)).map(pair).collect(),
            rules: rules.map(|rule| rule.when.as_str().to_owned()).collect(),
            fallback: version.fallback.iter().map(pair).map(message).collect(),
            examples: Choice::of(examples.collect(), version.most_examples.to_native()),
            tools: Choice::of(tools.collect(), version.most_tools.to_native()),
            partials: version.partials.iter().map(partial).collect(),
            variables: variables.collect(),
            parameters: parameters
                .into_iter()
                .filter(|(name, _)| name != "model")
                .map(|(name, value)| (name, value.to_string()))
                .collect(),
            model,
        }
    }

    /// Compiled when it is first used.
    pub fn compiled(&self) -> Result<&Compiled, &str> {
        let compile = || {
            let template = Template::compile(&self.messages, &self.partials, Some(self.variables.clone()))
                .map_err(|error| error.to_string())?;
            let when = |rule: &String| {
                let when = serde_json::from_str(rule).map_err(|error| error.to_string())?;
                When::parse(&when, template.variables())
            };
            let rules = self.rules.iter().map(when).collect::<Result<_, _>>()?;
            Ok(Compiled { template, rules })
        };
        self.compiled.get_or_init(compile).as_ref().map_err(String::as_str)
    }

    /// The templates of its messages and of what they include.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.messages.iter().map(|(_, template)| template.as_str()).chain(self.partials.values().map(String::as_str))
    }
}
