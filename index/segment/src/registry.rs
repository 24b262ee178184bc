//! The configuration snapshot: everything an edge must know of keys and prompts, small and shipped whole.

use crate::archive::Archived;
use rkyv::{Archive, Deserialize, Serialize, rancor};

/// All tenants.
#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
pub struct Registry {
    pub tenants: Vec<Tenant>,
}

#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
pub struct Tenant {
    pub id: [u8; 16],
    pub name: String,
    pub keys: Vec<Key>,
    pub prompts: Vec<Prompt>,
    /// The alias that `default` stands for.
    pub default_prompt: Option<String>,
    pub secrets: Vec<SealedSecret>,
    /// Present where the tenant keeps what is said in runs.
    pub contents: Option<Contents>,
}

/// How the contents of runs are kept.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Contents {
    /// The public key that they are sealed to; the store alone opens them.
    pub key: [u8; 32],
    /// Most bytes of a request, and of an answer; the rest is cut off.
    pub max_bytes: u32,
}

impl Contents {
    /// What the seal of a run's content is bound to. Ids are hexadecimal.
    pub fn context(tenant: &str, run: &str) -> String {
        format!("contents/{tenant}/{run}")
    }
}

/// A provider's credential, sealed to the fleet.
#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
pub struct SealedSecret {
    pub name: String,
    /// The only place that it is sent to.
    pub origin: String,
    pub sealed: Vec<u8>,
}

impl SealedSecret {
    /// What the seal of a tenant's secret is bound to.
    pub fn context(tenant: &[u8; 16], name: &str, origin: &str) -> String {
        let tenant: String = tenant.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{tenant}/{name}/{origin}")
    }
}

/// An API key. Revoked keys are not published.
#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
pub struct Key {
    pub id: [u8; 16],
    pub name: String,
    /// BLAKE3 of the key, keyed with the pepper, which is never in a snapshot.
    pub hash: [u8; 32],
    /// 0 = the configuration's default.
    pub requests_per_minute: u32,
    /// Microseconds since the Unix epoch; 0 = never.
    pub expires_at: i64,
    /// Names, or `*`.
    pub routes: Vec<String>,
    pub models: Vec<String>,
    pub asserts: Vec<String>,
}

/// A prompt in force in an environment.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Prompt {
    pub alias: String,
    pub environment: String,
    /// Whether requests with it get retrieved context.
    pub context: bool,
    pub version: PromptVersion,
    /// Which of several versions a request gets, while an experiment runs.
    pub experiment: Option<Experiment>,
}

/// A version with everything that it includes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct PromptVersion {
    pub number: u32,
    pub messages: Vec<PromptMessage>,
    /// Plain texts for when it cannot be rendered.
    pub fallback: Vec<PromptMessage>,
    pub rules: Vec<Rule>,
    pub examples: Vec<Example>,
    pub most_examples: u32,
    pub tools: Vec<Tool>,
    pub most_tools: u32,
    pub variables: Vec<Variable>,
    pub partials: Vec<Partial>,
    /// A JSON object: members of the request that are used where the caller gives none.
    pub parameters: String,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct PromptMessage {
    pub role: String,
    pub template: String,
}

/// One more message for the users of whom `when` holds.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Rule {
    /// JSON: a string is an expression, an object a filter.
    pub when: String,
    pub message: PromptMessage,
}

/// A question and its answer.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Example {
    pub input: String,
    pub output: String,
}

/// A tool that a prompt brings.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// A JSON Schema.
    pub parameters: String,
}

/// A declared variable.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Variable {
    pub name: String,
    /// JSON: type, default, schema.
    pub declaration: String,
}

/// An included template, by the name that includes it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Partial {
    pub name: String,
    pub template: String,
}

/// A running experiment: a unit whose number falls into an arm's range gets the arm's version.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Experiment {
    pub name: String,
    pub seed: String,
    /// `session`, `subject`, `key` or `request`.
    pub unit: String,
    pub arms: Vec<Arm>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Arm {
    pub name: String,
    /// The range of units, in 2⁻³² of all: its beginning, and its end, which is not in it.
    pub from: u64,
    pub to: u64,
    pub version: PromptVersion,
}

impl ArchivedRegistry {
    /// Itself, out of its file.
    pub fn to_owned(&self) -> Result<Registry, rancor::Error> {
        rkyv::deserialize(self)
    }

    /// Whether any prompt has more examples or tools than a request gets.
    pub fn chooses(&self) -> bool {
        let of = |version: &ArchivedPromptVersion| {
            version.examples.len() > version.most_examples.to_native() as usize
                || version.tools.len() > version.most_tools.to_native() as usize
        };
        self.tenants.iter().flat_map(|tenant| tenant.prompts.iter()).any(|prompt| {
            let mut arms = prompt.experiment.iter().flat_map(|experiment| experiment.arms.iter());
            of(&prompt.version) || arms.any(|arm| of(&arm.version))
        })
    }
}

impl Archived for Registry {
    const KIND: [u8; 4] = *b"REGY";
    const VERSION: u32 = 4;
}
