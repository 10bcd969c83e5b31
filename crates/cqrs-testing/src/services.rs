//! The servers that tests talk to: those that are given, and private ones that a test may kill.
//!
//! `scripts/services` starts them and says in variables where they are. A test takes its server by [`trial`], so that it
//! is ignored with a word where there is none, and fails where there has to be one.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};
use tempfile::TempDir;

/// Set to `1`, a test that finds no server fails; else it is ignored.
const REQUIRED: &str = "CQRS_TEST_REQUIRE_SERVICES";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// PostgreSQL: `postgres://user:password@host:port/database`, of a user who may create schemas and databases.
    Postgres,
    /// MariaDB or MySQL: `mysql://user:password@host:port/database`, of a user who may create databases.
    MySql,
    /// Kafka: `host:port[,host:port..]`, where topics are created with their first message.
    Kafka,
    /// The same cluster behind SASL_PLAINTEXT with PLAIN, for its user `cqrs`.
    KafkaSasl,
    /// RabbitMQ: `amqp://user:password@host:port`, of an administrator.
    Amqp,
}

impl Service {
    /// The variable that says where it is.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "CQRS_TEST_POSTGRES_URL",
            Self::MySql => "CQRS_TEST_MYSQL_URL",
            Self::Kafka => "CQRS_TEST_KAFKA",
            Self::KafkaSasl => "CQRS_TEST_KAFKA_SASL",
            Self::Amqp => "CQRS_TEST_AMQP_URL",
        }
    }

    /// Where it is, if somebody has said so.
    pub fn given(self) -> Option<String> {
        std::env::var(self.variable()).ok().filter(|value| !value.is_empty())
    }

    /// What `scripts/services` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mariadb",
            Self::Kafka | Self::KafkaSasl => "kafka",
            Self::Amqp => "rabbitmq",
        }
    }

    /// Whether [`Server::start`] works without installing anything; else what is missing.
    fn installed(self) -> Result<(), String> {
        services("installed", &[self.name()], |_| {}).map(drop)
    }

    fn how(self) -> String {
        format!(
            "run ./scripts/test, or ./scripts/services start and eval \"$(./scripts/services env)\", or set {}",
            self.variable()
        )
    }
}

/// A test that needs a server, and is given where it is. Without one it fails if servers are required, and is ignored
/// with a word on how to start one if they are not.
pub fn trial(
    service: Service,
    name: impl Into<String>,
    test: impl FnOnce(String) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    trial_with([service], name, |[url]| test(url))
}

/// As [`trial`], with several servers.
pub fn trial_with<const N: usize>(
    services: [Service; N],
    name: impl Into<String>,
    test: impl FnOnce([String; N]) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    trial_with_own(&services, &[], name, move || {
        test(services.map(|service| service.given().unwrap_or_default()))
    })
}

/// A test that needs servers, and besides starts some of its own by [`Server::start`]. Where the programs of these are not
/// installed it is ignored, unless servers are required.
pub fn trial_with_own(
    given: &[Service],
    own: &[Service],
    name: impl Into<String>,
    test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let (given, own) = (given.to_vec(), own.to_vec());
    Trial::ignorable_test(name, move || {
        match given.into_iter().find(|service| service.given().is_none()) {
            None => {}
            // A cluster that was given from elsewhere need not have such a listener.
            Some(Service::KafkaSasl) if Service::Kafka.given().is_some() => {
                return Ok(Completion::ignored_with(Service::KafkaSasl.how()));
            }
            Some(missing) if required() => {
                return Err(Failed::from(format!("the server is required: {}", missing.how())));
            }
            Some(missing) => return Ok(Completion::ignored_with(missing.how())),
        }
        if !required()
            && let Some(why) = own.into_iter().find_map(|service| service.installed().err())
        {
            return Ok(Completion::ignored_with(format!("it starts a server of its own: {why}")));
        }
        test().map(|()| Completion::Completed)
    })
}

/// Runs tests of servers as the arguments of this process say. Without a word about it, twice as many run at a time as there are
/// processors, for most of their time they wait; but not more than the connections of a test server suffice for.
pub fn run(trials: Vec<Trial>) -> Conclusion {
    let mut arguments = Arguments::from_args();
    arguments
        .test_threads
        .get_or_insert_with(|| thread::available_parallelism().map_or(2, |cores| (2 * cores.get()).min(16)));
    libtest_mimic::run(&arguments, trials)
}

/// Whether a test that finds no server fails.
pub fn required() -> bool {
    std::env::var(REQUIRED).is_ok_and(|required| required == "1")
}

/// A server of a test's own, that it may kill, stop and pause. Dropping it stops it and removes its data.
///
/// Every call blocks, for up to some seconds: in an async test, make it on a thread for that.
#[derive(Debug)]
pub struct Server {
    service: Service,
    url: String,
    behind: Option<u16>,
    address: String,
    folder: TempDir,
}

impl Server {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// What `scripts/services` says: what is missing, or why it did not start.
    pub fn start(service: Service) -> Result<Self, String> {
        Self::start_with(service, None)
    }

    /// Starts one, some of whose clients come through a proxy at this port of this host, which goes to its
    /// [`address`](Self::address): Kafka sends its clients on to where it says that it is, so it has to know.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn start_behind(service: Service, port: u16) -> Result<Self, String> {
        Self::start_with(service, Some(port))
    }

    fn start_with(service: Service, behind: Option<u16>) -> Result<Self, String> {
        // By this name a later run finds it, should this process be killed.
        let folder = tempfile::Builder::new().prefix("cqrs-test-servers.").tempdir();
        let folder = folder.map_err(|error| format!("there is no temporary folder: {error}"))?;
        let mut server = Self { service, url: String::new(), behind, address: String::new(), folder };
        server.start_again()?;
        let variables = server.run("env", &[])?;
        let value = |name: &str| {
            let prefix = format!("export {name}=");
            variables.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
        };
        let url = value(service.variable());
        server.url = url.ok_or_else(|| format!("it has no {}: {variables}", service.variable()))?;
        server.address = value("CQRS_TEST_KAFKA_PROXIED").unwrap_or_else(|| host_and_port(&server.url));
        Ok(server)
    }

    /// What a test is given; see [`Service`].
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where a proxy before it has to go: `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Kills it (SIGKILL). Its data stays.
    ///
    /// # Errors
    ///
    /// What `scripts/services` says.
    pub fn kill(&self) -> Result<(), String> {
        self.run("kill", &[self.service.name()]).map(drop)
    }

    /// Starts it after it was killed, at the same address and with its data, and returns when it can be used.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill).
    pub fn start_again(&self) -> Result<(), String> {
        self.run("start", &[self.service.name()]).map(drop)
    }

    /// Stops it in order and starts it again.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill).
    pub fn restart(&self) -> Result<(), String> {
        self.run("restart", &[self.service.name()]).map(drop)
    }

    /// Stops it in its tracks (SIGSTOP): connections stay, and nothing is answered.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill).
    pub fn pause(&self) -> Result<(), String> {
        self.run("pause", &[self.service.name()]).map(drop)
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill).
    pub fn resume(&self) -> Result<(), String> {
        self.run("resume", &[self.service.name()]).map(drop)
    }

    /// Puts what it has logged into a file below the target folder, for whoever wants to know why a test failed, and gives
    /// the file's name. A test that panics does so by itself.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill).
    pub fn keep_logs(&self) -> Result<String, String> {
        self.run("keep-logs", &[]).map(|kept| kept.trim().to_owned())
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Result<String, String> {
        services(command, arguments, |services| {
            services
                .env("CQRS_SERVICES_DIR", self.folder.path())
                .env("CQRS_SERVICES_OWNER", std::process::id().to_string());
            if let Some(port) = self.behind {
                services.env("CQRS_KAFKA_PROXY", port.to_string());
            }
            for given in
                [Service::Postgres, Service::MySql, Service::Kafka, Service::KafkaSasl, Service::Amqp]
            {
                services.env_remove(given.variable());
            }
        })
    }
}

/// Those of a URL, or of what stands for one.
fn host_and_port(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split(['/', '?', ',']).next().unwrap_or_default().to_owned()
}

/// Runs `scripts/services`: what it prints, or why it failed.
fn services(command: &str, arguments: &[&str], set_up: impl FnOnce(&mut Command)) -> Result<String, String> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/services");
    let mut services = Command::new(&script);
    services.arg(command).args(arguments).stdin(Stdio::null());
    set_up(&mut services);
    let output = services.output().map_err(|error| format!("{} does not run: {error}", script.display()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("scripts/services {command} {}: {}", arguments.join(" "), said.trim()))
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "for whoever reads why a test failed")]
    fn drop(&mut self) {
        if thread::panicking() {
            match self.keep_logs() {
                Ok(kept) => eprintln!("the logs of the test's own {} are in {kept}", self.service.name()),
                Err(why) => {
                    eprintln!("the logs of the test's own {} were not kept: {why}", self.service.name())
                }
            }
        }
        // There is nobody to tell; the next run of scripts/services sweeps up.
        let _ = self.run("stop", &[]);
    }
}
