//! Settings of one role, each from the strongest of its sources: flag, environment, file, default.
//!
//! Values stay text until they are asked for, so that every error can name the key, the value and
//! where it came from. (clap's own `env` reads the process's environment, which tests must not
//! change, and its errors do not tell a variable from a flag.)

use crate::keys::{Key, Role};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    marker::PhantomData,
    path::{Path, PathBuf},
};

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A flag of the command line.
    Flag,
    /// An environment variable.
    Env(&'static str),
    /// A configuration file.
    File(PathBuf),
    /// The key's default.
    Default,
}

impl Source {
    /// Its kind in one word, and which one it is where there are several.
    pub fn parts(&self) -> (&'static str, Option<String>) {
        match self {
            Self::Flag => ("flag", None),
            Self::Env(name) => ("environment", Some((*name).to_owned())),
            Self::File(path) => ("file", Some(path.display().to_string())),
            Self::Default => ("default", None),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("a flag"),
            Self::Env(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// Why a configuration was refused: the user's mistake, exit code 2.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value that makes no sense.
    #[error("{key} = \"{value}\" (from {source_of}) is wrong: {cause}; wanted: {want}")]
    Bad {
        /// Which key.
        key: String,
        /// Its value.
        value: String,
        /// Where it came from.
        source_of: Source,
        /// What is wrong.
        cause: String,
        /// What would be right.
        want: String,
    },
    /// A value that must be given and was not.
    #[error("{key} is not set: give --{flag}, {env} or a line in the file; wanted: {want}")]
    Missing {
        /// Which key.
        key: &'static str,
        /// Its flag.
        flag: String,
        /// Its environment variable.
        env: &'static str,
        /// What would be right.
        want: &'static str,
    },
    /// The file cannot be read, or is not TOML.
    #[error("the configuration file {path} cannot be used: {cause}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        cause: String,
    },
    /// A key in the file that the role does not have.
    #[error("the file {path} sets \"{key}\", which a {role} does not have; its keys are {known}")]
    Unknown {
        /// Which file.
        path: String,
        /// Which key.
        key: String,
        /// Which role.
        role: &'static str,
        /// The role's keys.
        known: String,
    },
}

/// The variable that names the file.
const CONFIG: &str = "MOOSENG_CONFIG";

/// The flags of a role, as part of any clap command: one per key, `--config`, `--print-config`.
#[derive(Clone, Debug)]
pub struct Flags<R> {
    given: Vec<(&'static str, String)>,
    config: Option<PathBuf>,
    /// Show what is in force, with its sources, and end.
    pub print_config: bool,
    role: PhantomData<R>,
}

impl<R: Role> Flags<R> {
    /// The file that is read, as the flag or the environment names it.
    pub fn file(&self) -> Option<(PathBuf, Source)> {
        self.file_of(|name| std::env::var(name).ok())
    }

    fn file_of(&self, env: impl Fn(&str) -> Option<String>) -> Option<(PathBuf, Source)> {
        let from_env = || Some((env(CONFIG).filter(|v| !v.is_empty())?.into(), Source::Env(CONFIG)));
        self.config.clone().map(|path| (path, Source::Flag)).or_else(from_env)
    }

    /// The same flags with another file.
    #[must_use]
    pub fn with_file(&self, path: PathBuf) -> Self {
        Self { config: Some(path), ..self.clone() }
    }
}

impl<R: Role> FromArgMatches for Flags<R> {
    fn from_arg_matches(m: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |k: &Key| Some((k.name, m.get_one::<String>(k.name)?.clone()));
        Ok(Self {
            given: R::keys().filter_map(given).collect(),
            config: m.get_one::<PathBuf>("config").cloned(),
            print_config: m.get_flag("print_config"),
            role: PhantomData,
        })
    }
    fn update_from_arg_matches(&mut self, m: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(m)?;
        Ok(())
    }
}

impl<R: Role> clap::Args for Flags<R> {
    fn augment_args(cmd: Command) -> Command {
        let flag = |k: &'static Key| {
            let default = k.default.map(|d| format!(" [default: {d}]")).unwrap_or_default();
            let help = format!("{} [env: {}]{default}", k.help, k.env.join(", "));
            Arg::new(k.name).long(k.flag()).value_name(k.value).help(help)
        };
        let cmd = cmd.args(R::keys().map(flag));
        let path =
            Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf));
        cmd.arg(path.help("TOML file with any of these keys, `-` written `_` [env: MOOSENG_CONFIG]")).arg(
            Arg::new("print_config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Print what is in force and where each value came from, then end"),
        )
    }
    fn augment_args_for_update(cmd: Command) -> Command {
        Self::augment_args(cmd)
    }
}

#[derive(Clone, Debug)]
struct Found {
    text: String,
    source: Source,
}

/// A key with what is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Its name in files.
    pub key: &'static str,
    /// Its text and where that came from; `None` when it is not set and has no default.
    pub value: Option<(&'a str, &'a Source)>,
}

/// Values of a role's keys.
#[derive(Clone, Debug)]
pub struct Settings {
    role: &'static str,
    keys: Vec<&'static Key>,
    found: BTreeMap<&'static str, Found>,
}

impl Settings {
    /// From flags, this process's environment, and the file they name.
    pub fn load<R: Role>(flags: &Flags<R>) -> Result<Self, ConfigError> {
        Self::with_env(flags, |name| std::env::var(name).ok())
    }

    /// The same with another environment. An empty variable counts as not set.
    pub fn with_env<R: Role>(
        flags: &Flags<R>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let env = |name: &str| env(name).filter(|v| !v.is_empty());
        let path = flags.file_of(env).map(|(path, _)| path);
        let file = path.map(|p| read_file::<R>(&p).map(|t| (p, t))).transpose()?;
        let mut found = BTreeMap::new();
        for key in R::keys() {
            let flag =
                flags.given.iter().find(|(k, _)| *k == key.name).map(|(_, v)| (v.clone(), Source::Flag));
            let from_env = || key.env.iter().find_map(|e| Some((env(e)?, Source::Env(e))));
            let from_file =
                || file.as_ref().and_then(|(p, t)| Some((t.get(key.name)?.clone(), Source::File(p.clone()))));
            let default = || key.default.map(|d| (d.to_owned(), Source::Default));
            let strongest = flag.or_else(from_env).or_else(from_file).or_else(default);
            if let Some((text, source)) = strongest {
                found.insert(key.name, Found { text, source });
            }
        }
        Ok(Self { role: R::NAME, keys: R::keys().collect(), found })
    }

    fn key(&self, name: &str) -> &'static Key {
        let row = self.keys.iter().find(|k| k.name == name);
        row.unwrap_or_else(|| panic!("a {} has no key {name} in its table", self.role))
    }

    /// Text of a key that may be left out.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.key(name);
        self.found.get(name).map(|f| f.text.as_str())
    }

    /// A value that may be left out.
    pub fn opt<T>(&self, name: &str) -> Result<Option<T>, ConfigError>
    where
        T: std::str::FromStr,
        T::Err: fmt::Display,
    {
        self.opt_with(name, |s| s.parse::<T>().map_err(|e| e.to_string()))
    }

    /// A value that must be there.
    pub fn get<T>(&self, name: &str) -> Result<T, ConfigError>
    where
        T: std::str::FromStr,
        T::Err: fmt::Display,
    {
        self.opt(name)?.ok_or_else(|| self.missing(name))
    }

    /// A value that is parsed by `parse`, which tells what is wrong.
    pub fn get_with<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.opt_with(name, parse)?.ok_or_else(|| self.missing(name))
    }

    fn opt_with<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let value = self.text(name).map(str::trim).map(parse).transpose();
        value.map_err(|cause| self.bad(name, cause))
    }

    /// Parts between commas; empty when the key is not set.
    pub fn list(&self, name: &str) -> Vec<String> {
        let parts = self.text(name).unwrap_or_default().split(',').map(str::trim);
        parts.filter(|p| !p.is_empty()).map(str::to_owned).collect()
    }

    /// The error of a value that is wrong for this cause.
    pub fn bad(&self, name: &str, cause: impl fmt::Display) -> ConfigError {
        let (key, found) = (self.key(name), self.found.get(name));
        ConfigError::Bad {
            key: name.into(),
            value: found.map(|f| f.text.clone()).unwrap_or_default(),
            source_of: found.map_or(Source::Default, |f| f.source.clone()),
            cause: cause.to_string(),
            want: key.want.into(),
        }
    }

    /// The error of a value that must be given.
    pub fn missing(&self, name: &str) -> ConfigError {
        let key = self.key(name);
        let env = key.env.first().copied().unwrap_or_default();
        ConfigError::Missing { key: key.name, flag: key.flag(), env, want: key.want }
    }

    /// All keys of the role, with what is in force.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.keys.iter().map(|key| {
            let value = self.found.get(key.name).map(|f| (f.text.as_str(), &f.source));
            Entry { key: key.name, value }
        })
    }

    /// What is in force, as a TOML file that can be given to `--config`; with `origins`, and where each value
    /// came from.
    pub fn print(&self, origins: bool) -> String {
        let mut out = String::new();
        for Entry { key, value } in self.entries() {
            // Writing to a string cannot fail.
            let _ = match value {
                Some((text, source)) => {
                    let from = if origins { format!(" # from {source}") } else { String::new() };
                    writeln!(out, "{key} = {}{from}", toml::Value::from(text))
                }
                None => writeln!(out, "# {key} is not set"),
            };
        }
        out
    }
}

/// A file's values as text; an array's parts are joined by commas.
fn read_file<R: Role>(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|e| ConfigError::File { path: path.display().to_string(), cause: e.to_string() })?;
    parse_file::<R>(path, &text)
}

fn parse_file<R: Role>(path: &Path, text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let at = path.display().to_string();
    let failed = |cause: String| ConfigError::File { path: at.clone(), cause };
    let table: toml::Table = toml::from_str(text).map_err(|e| failed(e.to_string()))?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !R::keys().any(|k| k.name == key) {
            let known: Vec<_> = R::keys().map(|k| k.name).collect();
            return Err(ConfigError::Unknown { path: at, key, role: R::NAME, known: known.join(", ") });
        }
        let parts = match value {
            toml::Value::Array(parts) => parts,
            one => vec![one],
        };
        let part = |v: toml::Value| match v {
            toml::Value::String(s) => Ok(s),
            toml::Value::Integer(n) => Ok(n.to_string()),
            toml::Value::Boolean(b) => Ok(b.to_string()),
            other => {
                Err(failed(format!("{key} is a {}: write a string, a number or an array", other.type_str())))
            }
        };
        let parts = parts.into_iter().map(part).collect::<Result<Vec<_>, _>>()?;
        values.insert(key, parts.join(","));
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
