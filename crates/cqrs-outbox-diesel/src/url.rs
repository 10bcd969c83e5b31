//! A URL for people.

/// Without its password, and without its parameters, for one may stand there, too.
pub(crate) fn without_password(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut parsed) if parsed.has_host() => {
            if parsed.password().is_some() {
                // Only fails for URLs that cannot have a password.
                let _ = parsed.set_password(Some("***"));
            }
            parsed.set_query(None);
            parsed.into()
        }
        // What cannot be parsed cannot be masked, so only the scheme is shown.
        _ => url.split_once(':').map_or("..".to_owned(), |(scheme, _)| format!("{scheme}:..")),
    }
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn no_password_is_shown() {
        for url in [
            "postgres://u:secret@h/db",
            "postgres://h/db?user=u&password=secret",
            "postgres:u:secret@h:x",
            "mysql://u:secret@h/db",
        ] {
            let shown = without_password(url);
            assert!(
                !shown.contains("secret") && url.starts_with(shown.split(':').next().unwrap()),
                "{shown}"
            );
        }
    }
}
