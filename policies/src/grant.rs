//! What a key may ask for.

use std::fmt;

/// A steering right that a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Assert {
    Variables,
    Prompt,
    Environment,
    Collections,
    ContextTokens,
    Filter,
    Session,
    Subject,
    Agent,
    /// To see what would be sent, system prompts included.
    Explain,
}

impl Assert {
    pub const ALL: [Assert; 10] = [
        Assert::Variables,
        Assert::Prompt,
        Assert::Environment,
        Assert::Collections,
        Assert::ContextTokens,
        Assert::Filter,
        Assert::Session,
        Assert::Subject,
        Assert::Agent,
        Assert::Explain,
    ];

    /// The names of [`Assert::ALL`].
    pub const NAMES: [&'static str; Assert::ALL.len()] = {
        let mut names = [""; Assert::ALL.len()];
        let mut at = 0;
        while at < names.len() {
            names[at] = Assert::ALL[at].name();
            at += 1;
        }
        names
    };

    /// As it is written in a body's `sluice` member and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Assert::Variables => "variables",
            Assert::Prompt => "prompt",
            Assert::Environment => "environment",
            Assert::Collections => "collections",
            Assert::ContextTokens => "context_tokens",
            Assert::Filter => "filter",
            Assert::Session => "session",
            Assert::Subject => "subject",
            Assert::Agent => "agent",
            Assert::Explain => "explain",
        }
    }

    pub fn of_name(name: &str) -> Option<Assert> {
        Assert::ALL.into_iter().find(|assert| assert.name() == name)
    }
}

impl fmt::Display for Assert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of names, or all of them (written `*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    names: Option<Vec<String>>,
}

impl Allow {
    pub fn of_names(names: impl IntoIterator<Item = String>) -> Allow {
        let names: Vec<String> = names.into_iter().collect();
        let all = names.iter().any(|name| name == "*");
        Allow { names: (!all).then_some(names) }
    }

    pub fn allows(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|listed| listed == name))
    }
}

/// Everything that a key is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub routes: Allow,
    /// Provider models that may be named without a route of their own.
    pub models: Allow,
    pub asserts: Vec<Assert>,
    /// `None`: the configuration's default.
    pub requests_per_minute: Option<u32>,
    /// Microseconds since the Unix epoch.
    pub expires_at: Option<i64>,
}

impl Grant {
    pub fn may(&self, assert: Assert) -> bool {
        self.asserts.contains(&assert)
    }

    /// Whether the key is past its time at `now` (microseconds since the Unix epoch).
    pub fn is_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
