//! Sections that this version reads but does not act on: their fields as data, so that mistakes in them are found now and
//! secrets in them are not shown.

use super::http::{Auth, HttpClientConfig, TlsConfig};
use super::read_relabel::read_relabel_configs;
use super::secret::REDACTED;
use gnomon_model::duration::format_duration_ms;
use gnomon_model::relabel::NameRules;
use gnomon_model::size::format_size_bytes;
use gnomon_model::yaml::{At, Fields, Out, YamlError};
use std::path::Path;

/// The fields of a section.
pub struct Shape {
    pub fields: &'static [Field],
    /// Which client options stand among the fields.
    pub client: Client,
    /// What fields ask of each other; gives the field at fault and what is wrong.
    pub check: fn(&Section) -> Option<(&'static str, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Client {
    None,
    /// `tls_config` only.
    Tls,
    /// All options of [`HttpClientConfig`].
    Http,
    /// The same, but HTTP/2 only where it is asked for.
    Http1,
}

pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// What holds where the field is absent, for showing.
    pub preset: Preset,
}

#[derive(Clone, Copy)]
pub enum Preset {
    Nothing,
    Text(&'static str),
    Int(i64),
    Flag(bool),
    /// The presets of the section that the field holds.
    Nested,
}

pub enum Kind {
    Text,
    Secret,
    Flag,
    Integer,
    Count,
    /// A whole number above zero.
    Positive,
    Float,
    /// A number from 0 to 100.
    Percentage,
    Duration,
    Size,
    /// With scheme http or https, and a host.
    Url,
    /// One that Go's URL parser would take, a bare `host:port` included.
    LooseUrl,
    OneOf(&'static [&'static str]),
    /// The same in any case of letters.
    OneOfAnyCase(&'static [&'static str]),
    Texts,
    TextMap,
    Map(&'static Shape),
    List(&'static Shape),
    Relabel(&'static str),
    /// Not a field: where the client's options stand when the section is shown; without it, last.
    Client,
}

pub const CLIENT: Field = may("", Kind::Client);

/// A field that may be absent.
pub const fn may(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        required: false,
        preset: Preset::Nothing,
    }
}

/// A field that must be there and not be empty.
pub const fn must(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        required: true,
        preset: Preset::Nothing,
    }
}

/// A field that has a value even where it is absent.
pub const fn preset(name: &'static str, kind: Kind, preset: Preset) -> Field {
    Field {
        name,
        kind,
        required: false,
        preset,
    }
}

/// What Go's encoder would show of a section of which nothing is written.
fn presets(shape: &Shape) -> Vec<(String, Out)> {
    let shown = |field: &Field| field.preset_out().map(|out| (field.name.to_owned(), out));
    shape.fields.iter().filter_map(shown).collect()
}

impl Field {
    fn preset_out(&self) -> Option<Out> {
        match (self.preset, &self.kind) {
            (Preset::Nothing, _) => None,
            (Preset::Text(text), _) => Some(Out::text(text)),
            (Preset::Int(number), _) => Some(Out::Int(number)),
            (Preset::Flag(flag), _) => Some(Out::Bool(flag)),
            (Preset::Nested, Kind::Map(shape)) => Some(Out::Map(presets(shape))),
            (Preset::Nested, _) => Some(Out::Map(Vec::new())),
        }
    }
}

pub fn no_check(_: &Section) -> Option<(&'static str, String)> {
    None
}

/// A section that was read: its fields in the order of the shape, secrets masked.
#[derive(Debug, Default)]
pub struct Section {
    pub fields: Vec<(String, Out)>,
    pub http: Option<HttpClientConfig>,
}

impl Section {
    pub fn get(&self, name: &str) -> Option<&Out> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, out)| out)
    }

    /// Whether a field has a value that is not empty.
    pub fn has(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|out| !out.is_empty() && *out != Out::Bool(false))
    }

    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Out::Text(text)) => text,
            _ => "",
        }
    }

    pub fn auth(&self) -> Option<&Auth> {
        self.http.as_ref().and_then(|http| http.auth.as_ref())
    }
}

/// Everything that reading a section needs besides the section.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    pub dir: &'a Path,
    pub names: NameRules,
}

impl Shape {
    pub const fn new(fields: &'static [Field], client: Client) -> Self {
        Self {
            fields,
            client,
            check: no_check,
        }
    }

    pub const fn checked(
        fields: &'static [Field],
        client: Client,
        check: fn(&Section) -> Option<(&'static str, String)>,
    ) -> Self {
        Self { fields, client, check }
    }

    /// # Errors
    /// When the section is empty or malformed, a field is unknown, a required one is absent or the check fails.
    pub fn read(&self, at: &At<'_>, around: Around<'_>) -> Result<Section, YamlError> {
        if at.is_null() {
            return Err(at.error("empty or null section"));
        }
        let mut fields = at.fields()?;
        let section = self.read_fields(&mut fields, around)?;
        fields.finish()?;
        Ok(section)
    }

    /// The same where other fields, which somebody else reads, stand beside these.
    ///
    /// # Errors
    /// As [`Shape::read`], but for unknown fields.
    pub fn read_fields(&self, fields: &mut Fields<'_>, around: Around<'_>) -> Result<Section, YamlError> {
        let mut section = Section::default();
        for field in self.fields {
            if matches!(field.kind, Kind::Client) {
                self.read_client(fields, around, &mut section)?;
                continue;
            }
            let read = fields.read(field.name, |at| field.kind.read(at, around))?;
            if field.required && read.as_ref().is_none_or(Out::is_empty) {
                let message = format!("{} is required and must not be empty", field.name);
                return Err(fields.error_at(field.name, message));
            }
            if let Some(out) = read.or_else(|| field.preset_out()) {
                section.fields.push((field.name.to_owned(), out));
            }
        }
        if !self.fields.iter().any(|field| matches!(field.kind, Kind::Client)) {
            self.read_client(fields, around, &mut section)?;
        }
        match (self.check)(&section) {
            Some((name, message)) => Err(fields.error_at(name, message)),
            None => Ok(section),
        }
    }

    fn read_client(&self, fields: &mut Fields<'_>, around: Around<'_>, section: &mut Section) -> Result<(), YamlError> {
        match self.client {
            Client::None => {}
            Client::Tls => section.fields.extend(TlsConfig::read(fields, around.dir)?.to_fields()),
            Client::Http | Client::Http1 => {
                let mut http = HttpClientConfig::read(fields, around.dir)?;
                let asked_for_http2 = fields.flag("enable_http2", self.client == Client::Http)?;
                http.enable_http2 &= asked_for_http2;
                section.fields.extend(http.to_fields());
                section.http = Some(http);
            }
        }
        Ok(())
    }
}

impl Kind {
    fn read(&self, at: &At<'_>, around: Around<'_>) -> Result<Out, YamlError> {
        Ok(match self {
            Self::Text | Self::Client => Out::text(at.text()?),
            Self::Secret => match at.text()? {
                "" => Out::text(""),
                _ => Out::text(REDACTED),
            },
            Self::Flag => Out::Bool(at.flag()?),
            Self::Integer => Out::Int(at.integer()?),
            Self::Count => Out::Int(i64::try_from(at.count()?).unwrap_or(i64::MAX)),
            Self::Positive => match at.integer()? {
                number @ 1.. => Out::Int(number),
                _ => return Err(at.error("must be greater than 0")),
            },
            Self::Float => Out::Float(at.float()?),
            Self::Percentage => match at.float()? {
                number if (0.0..=100.0).contains(&number) => Out::Float(number),
                _ => return Err(at.error("must be in the range [0, 100]")),
            },
            Self::Duration => {
                let ms = at.duration()?.as_millis();
                Out::text(format_duration_ms(i64::try_from(ms).unwrap_or(i64::MAX)))
            }
            Self::Size => Out::text(format_size_bytes(at.size_bytes()?)),
            Self::Url => Out::text(strict_url(at)?),
            Self::LooseUrl => Out::text(loose_url(at)?),
            Self::OneOf(choices) => Out::text(one_of(at, choices, str::eq)?),
            Self::OneOfAnyCase(choices) => Out::text(one_of(at, choices, str::eq_ignore_ascii_case)?),
            Self::Texts => Out::texts(at.texts()?),
            Self::TextMap => Out::Map(
                at.text_map()?
                    .into_iter()
                    .map(|(name, text)| (name, Out::text(text)))
                    .collect(),
            ),
            Self::Map(shape) => Out::Map(shape.read(at, around)?.fields),
            Self::List(shape) => {
                let items = at.items()?;
                Out::List(
                    items
                        .iter()
                        .map(|at| Ok(Out::Map(shape.read(at, around)?.fields)))
                        .collect::<Result<_, _>>()?,
                )
            }
            Self::Relabel(what) => {
                let rules = read_relabel_configs(&at.items()?, around.names, what)?;
                super::print::relabel_configs(&rules)
            }
        })
    }
}

fn one_of(at: &At<'_>, choices: &[&str], same: fn(&str, &str) -> bool) -> Result<String, YamlError> {
    let text = at.text()?;
    if !choices.iter().any(|choice| same(choice, text)) {
        return Err(at.error(format!("unknown value {text:?}, must be one of {}", choices.join(", "))));
    }
    Ok(text.to_owned())
}

fn strict_url(at: &At<'_>) -> Result<String, YamlError> {
    let text = at.text()?;
    if text.is_empty() {
        return Ok(String::new());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(at.error(format!("{text:?} is not a URL: the scheme must be 'http' or 'https'")));
    };
    if !matches!(scheme, "http" | "https") {
        return Err(at.error(format!(
            "{text:?} is not a URL of use here: the scheme must be 'http' or 'https'"
        )));
    }
    if rest.starts_with(['/', '?', '#']) || rest.is_empty() {
        return Err(at.error(format!("{text:?} is not a URL of use here: the host is missing")));
    }
    url::Url::parse(text).map_err(|e| at.error(format!("{text:?} is not a URL: {e}")))?;
    Ok(mask_password(text))
}

fn loose_url(at: &At<'_>) -> Result<String, YamlError> {
    let text = at.text()?;
    let bad = |why: &str| Err(at.error(format!("{:?} is not a URL: {why}", without_credentials(text))));
    if text.contains(|c: char| c.is_ascii_control()) {
        return bad("it holds a control character");
    }
    match text.split_once(':') {
        Some(("", _)) => bad("missing protocol scheme"),
        Some((scheme, rest)) if rest.starts_with("//") && scheme.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            match url::Url::parse(text) {
                Ok(_) | Err(url::ParseError::EmptyHost) => Ok(mask_password(text)),
                Err(e) => bad(&e.to_string()),
            }
        }
        _ => Ok(text.to_owned()),
    }
}

/// Of a text that is no URL: what stands before its last `@` may have a password in it.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("***@{rest}"),
        None => text.to_owned(),
    }
}

/// `https://user:pass@host/` with the password masked, the rest as it was written.
pub(super) fn mask_password(text: &str) -> String {
    let masked = || {
        let (scheme, rest) = text.split_once("://")?;
        let authority_len = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (credentials, host) = rest[..authority_len].rsplit_once('@')?;
        let (user, _) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:xxxxx@{host}{}", &rest[authority_len..]))
    };
    masked().unwrap_or_else(|| text.to_owned())
}
