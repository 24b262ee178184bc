//! Managed prompts as an edge holds them, and which version a request gets.

use sluice_policies::experiment::place;
use sluice_segment::{ArchivedExperiment, ArchivedPrompt, ArchivedPromptVersion};
use sluice_text::{Partials, Template, Variable};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// The alias that stands for the tenant's default prompt.
pub const DEFAULT: &str = "default";

/// A prompt in force in an environment.
pub struct PromptEntry {
    pub alias: String,
    pub environment: String,
    /// Whether requests with it get retrieved context.
    pub context: bool,
    version: Arc<VersionEntry>,
    experiment: Option<ExperimentEntry>,
}

/// One version with what it includes, compiled when it is first used.
pub struct VersionEntry {
    pub number: u32,
    template: OnceLock<Result<Template, String>>,
    messages: Vec<(String, String)>,
    partials: Partials,
    variables: BTreeMap<String, Variable>,
    /// Members of a request and their JSON, used where the caller gives none.
    pub parameters: Vec<(String, String)>,
    /// The model of the parameters, for targets that name none.
    pub model: Option<String>,
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
            template: OnceLock::new(),
            messages: vec![("system".to_owned(), text.to_owned())],
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
        VersionEntry {
            number: version.number.to_native(),
            template: OnceLock::new(),
            messages: version
                .messages
                .iter()
                .map(|message| (message.role.as_str().to_owned(), message.template.as_str().to_owned()))
                .collect(),
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

    pub fn template(&self) -> Result<&Template, &str> {
        let compile = || {
            Template::compile(&self.messages, &self.partials, Some(self.variables.clone()))
                .map_err(|error| error.to_string())
        };
        self.template.get_or_init(compile).as_ref().map_err(String::as_str)
    }

    /// The templates of its messages and of what they include.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.messages.iter().map(|(_, template)| template.as_str()).chain(self.partials.values().map(String::as_str))
    }
}
