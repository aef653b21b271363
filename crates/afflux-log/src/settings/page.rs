//! The page of topic settings, made from their declaration.

use std::fmt::Write;

use super::{Allowed, SETTINGS, Setting, SettingType};

const INTRODUCTION: &str = "\
# Topic settings

<!-- Made from crates/afflux-log/src/settings/table.rs; a test holds that they agree. -->

Set when a topic is made, or later through any Kafka admin client (`kafka-configs`,
`AdminClient.incrementalAlterConfigs`, ...). A change is durable before it is answered, and holds
from then on.

Every setting does what is said here, or takes one value alone: the one that is true here. Any
other value, and any other name, is refused with `INVALID_CONFIG` and the reason. Nothing is stored
and ignored.

Afflux's own topics (`__afflux_...`) are not seen by clients; `__consumer_offsets` and
`__transaction_state` can be described, not changed.
";

/// The page `docs/topic-settings.md`.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## Settings that act\n");
    for setting in SETTINGS.iter().filter(|setting| !setting.is_fixed()) {
        let _ = write!(page, "\n### `{}`\n\n{}.", setting.name, kind(setting));
        let _ = write!(page, " Default: `{}`.", setting.default);
        let _ = write!(page, "\n\n{}\n", setting.doc);
    }
    page.push_str("\n## Settings with one value\n\n| setting | value | why |\n|---|---|---|\n");
    for setting in SETTINGS {
        if let Allowed::Only(why) = setting.allowed {
            let value = match setting.default {
                "" => "empty".to_owned(),
                value => format!("`{value}`"),
            };
            let _ = writeln!(page, "| `{}` | {value} | {why} |", setting.name);
        }
    }
    page
}

fn kind(setting: &Setting) -> String {
    match setting.allowed {
        Allowed::OneOf(values) => format!("One of `{}`", values.join("`, `")),
        Allowed::AnyOf(values) => format!("One or more of `{}`", values.join("`, `")),
        Allowed::Share => "A number from 0 to 1".to_owned(),
        Allowed::AtLeast(least) => {
            let bits = if setting.kind == SettingType::Int { 32 } else { 64 };
            format!("A whole number of {bits} bits, at least {least}")
        }
        Allowed::Only(_) => "One value".to_owned(),
    }
}
