//! What a finding is.

use std::fmt;

/// Declares the built-in kinds, so that the enum, its names and its list cannot drift apart.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A kind of personal data or secret.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
            /// A pattern of the user's own: its place in the list that the detector was made with.
            Custom(u8),
        }

        impl Kind {
            /// All built-in kinds.
            pub const ALL: [Kind; [$($name),*].len()] = [$(Kind::$variant),*];

            /// As it stands in placeholders, configuration and metrics. Patterns of the user's own have names of their
            /// own, which the detector knows.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$variant => $name,)*
                    Kind::Custom(_) => "CUSTOM",
                }
            }
        }
    };
}

kinds! {
    /// An address of RFC 5321, internationalised domains included.
    Email = "EMAIL",
    /// A telephone number with its country code, brackets and extension.
    Phone = "PHONE",
    /// ISO/IEC 7812: issuer, length and Luhn digit.
    CreditCard = "CREDIT_CARD",
    /// ISO 13616: length of its country, ISO 7064 mod 97-10.
    Iban = "IBAN",
    /// An account or ABA routing number beside a word that says so.
    BankAccount = "BANK_ACCOUNT",
    /// A social security number of the USA.
    UsSsn = "US_SSN",
    /// Another country's number of a person, beside its name and with its check digits.
    NationalId = "NATIONAL_ID",
    /// GB 11643: the resident identity number of the PRC.
    CnId = "CN_ID",
    /// GB 32100: the unified social credit code of the PRC.
    CnUscc = "CN_USCC",
    /// A passport's number beside a word that says so.
    Passport = "PASSPORT",
    /// A date that the text calls a date of birth.
    DateOfBirth = "DATE_OF_BIRTH",
    /// IPv4 and IPv6, but for loopback, unspecified and netmasks.
    IpAddress = "IP_ADDRESS",
    /// EUI-48.
    MacAddress = "MAC_ADDRESS",
    /// A URL with a user and a password.
    UrlCredentials = "URL_CREDENTIALS",
    /// Bitcoin (base58check, bech32, bech32m), Ethereum (EIP-55), Tron and their kin.
    CryptoAddress = "CRYPTO_ADDRESS",
    /// A provider's key, a token, a private key, a password.
    Secret = "SECRET",
    /// A vehicle's number plate of the PRC, or another beside a word that says so.
    LicensePlate = "LICENSE_PLATE",
    /// A name beside words that introduce one.
    Person = "PERSON",
    /// A postal address beside words that introduce one.
    Address = "ADDRESS",
}

impl Kind {
    /// The built-in kind of this name.
    pub fn of_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A place in an array: built-in kinds in the order of [`Kind::ALL`], the user's own behind them.
    pub fn index(self) -> usize {
        match self {
            Kind::Custom(place) => Kind::ALL.len() + usize::from(place),
            kind => Kind::ALL.iter().position(|other| *other == kind).unwrap_or(0),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
