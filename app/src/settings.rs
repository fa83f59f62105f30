//! The effective settings, as people and programs read them.

use app_env::{Effective, Origin, Variable};
use proxy_http::adaptive_windows::{CONNECTION_WINDOW, MIN_CONNECTION_WINDOW, STREAM_WINDOW};

/// A line for each setting that is not its variable's default, and how many are.
pub(crate) fn changed(settings: &[Effective]) -> Vec<String> {
    let (defaults, changed): (Vec<_>, Vec<_>) = settings.iter().partition(|setting| setting.origin == Origin::Default);
    let rest = format!("{} other settings have their defaults, which `app check --all` prints", defaults.len());
    changed.into_iter().map(|setting| adaptive(setting).unwrap_or_else(|| setting.to_string())).chain([rest]).collect()
}

/// A line for each setting, in the order of the variables.
pub(crate) fn all(settings: &[Effective]) -> Vec<String> {
    settings.iter().zip(app_env::variables()).map(line).collect()
}

/// A setting in one line. A default without a value has its meaning, from the variable's help.
fn line((setting, variable): (&Effective, Variable)) -> String {
    let Effective { name, value, origin, .. } = setting;
    if let Some(line) = adaptive(setting) {
        return line;
    }
    if value.is_some() || *origin != Origin::Default {
        return setting.to_string();
    }
    let help = variable.help.split_once("unset: ").or_else(|| variable.help.split_once("unset or empty: "));
    let meaning = help.and_then(|(_, meaning)| meaning.split(';').next());
    match meaning {
        Some(number) if number.parse::<u64>().is_ok() => format!("{name}={number} ({origin})"),
        Some(meaning) => format!("{name}: {meaning} ({origin})"),
        None => format!("{name}: not in use ({origin})"),
    }
}

/// The line of a window that adaptive flow control makes void, with its first size. `None`: it is no such window.
fn adaptive(setting: &Effective) -> Option<String> {
    let Effective { name, origin, .. } = setting;
    let Origin::Overridden(by) = origin else { return None };
    let side = by.strip_suffix("ADAPTIVE_FLOW_CONTROL")?;
    let to_client = side.ends_with("_SERVER_HTTP2_");
    let at_first = match name.strip_prefix(side)? {
        "INITIAL_STREAM_WINDOW_SIZE" if to_client => format!("at most {STREAM_WINDOW}"),
        "INITIAL_STREAM_WINDOW_SIZE" => STREAM_WINDOW.to_string(),
        "INITIAL_CONNECTION_WINDOW_SIZE" if to_client => format!("{MIN_CONNECTION_WINDOW} to {CONNECTION_WINDOW}"),
        "INITIAL_CONNECTION_WINDOW_SIZE" => CONNECTION_WINDOW.to_string(),
        _ => return None,
    };
    Some(format!("{name}: adaptive, {at_first} at first ({origin})"))
}

/// An object with each variable's value and where it came from.
pub(crate) fn json(settings: &[Effective]) -> String {
    let settings: serde_json::Map<_, _> = settings
        .iter()
        .map(|setting| {
            let origin = setting.origin.to_string();
            (setting.name.clone(), serde_json::json!({ "value": setting.value, "origin": origin }))
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Object(settings))
}
