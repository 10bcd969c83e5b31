//! URLs in errors and logs.

/// A URL for people: without its password, and without its parameters, for a password may stand there, too.
///
/// Where it is hard to tell, more is left out rather than less.
///
/// ```
/// use cqrs_core::without_password;
///
/// assert_eq!(without_password("postgres://app:secret@db:5432/orders?sslmode=off"), "postgres://app:***@db:5432/orders");
/// assert_eq!(without_password("kafka://one:9092,two:9092?sasl.password=secret"), "kafka://one:9092,two:9092");
/// assert_eq!(without_password("app:secret@db"), "..");
/// ```
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "..".to_owned() };
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    // Either of the two may then be a part of a password that was not encoded.
    if parameters.contains('@') {
        return format!("{scheme}://..");
    }
    match rest.rsplit_once('@') {
        Some((login, place)) => match login.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:***@{place}"),
            None => format!("{scheme}://{login}@{place}"),
        },
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("postgres://me:hunter2@h/db", "postgres://me:***@h/db"),
            ("postgres://me:hu/n@t:er2@h:5/db", "postgres://me:***@h:5/db"),
            ("postgres://me:hunt?er2@h/db", "postgres://.."),
            ("postgres://h/db?user=me&password=hunter2", "postgres://h/db"),
            ("postgres://h:5/db?user=me&password=hunt@er2", "postgres://.."),
            ("amqp://me:hunter2@", "amqp://me:***@"),
            ("amqp://me@h", "amqp://me@h"),
            ("sqlite:///a/b.sqlite", "sqlite:///a/b.sqlite"),
            ("postgres:me:hunter2@h", ".."),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
