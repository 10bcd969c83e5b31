# shellcheck shell=bash disable=SC2034,SC2154 # shared with who sources this
# Apache Kafka in KRaft mode, one node. Sourced by scripts/services, which says what these functions are.

kafka_variable=CQRS_TEST_KAFKA
kafka_wanted="Java 17 or newer and Maven (Debian: apt-get install maven default-jre-headless), which bring Apache Kafka"
kafka_example="localhost:9092, where topics are created with their first message"

kafka_release=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$root/scripts/kafka/pom.xml")
# Outside of the temporary folder: it is downloaded once.
kafka_cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/cqrs/kafka-$kafka_release

kafka_installed() { have java && { [ -d "$kafka_cache" ] || have mvn; }; }

kafka_install() { apt_install maven default-jre-headless; }

kafka_download() {
    [ ! -d "$kafka_cache" ] || return 0
    say "kafka: downloading Apache Kafka $kafka_release to $kafka_cache"
    mkdir -p "${kafka_cache%/*}"
    local part
    part=$(mktemp -d "$kafka_cache.XXXXXX")
    if ! mvn -q -B -f "$root/scripts/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$part" \
        -DincludeScope=runtime </dev/null >"$part/maven.log" 2>&1; then
        cat "$part/maven.log" >&2
        rm -rf "$part"
        refuse "Maven could not download Apache Kafka $kafka_release"
    fi
    chmod 755 "$part"
    # Whole or not at all, and whoever is second takes that of the first.
    mv -T "$part" "$kafka_cache" 2>/dev/null || rm -rf "$part"
}

# Half the start-up time, and a fraction of the memory, for a server of a few minutes.
kafka_java=(java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.showDateTime=true
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS" -cp "$kafka_cache/*")

kafka_create() {
    local home=$1
    kafka_download
    random_port >"$home/controller.port"
    random_port >"$home/sasl.port"
    kafka_configure "$home" 1
    "${kafka_java[@]}" -Xmx128m kafka.tools.StorageTool format -t "$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c1-22)" \
        -c "$home/server.properties" >"$home/log" 2>&1
}

kafka_configure() {
    local home=$1 port=$2 controller sasl
    controller=$(cat "$home/controller.port")
    sasl=$(cat "$home/sasl.port")
    cat >"$home/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_cqrs="$password";
log.dirs=$home/data
num.partitions=4
auto.create.topics.enable=true
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
CONF
}

kafka_launch() {
    local home=$1 port=$2
    kafka_configure "$home" "$port"
    spawn kafka "${kafka_java[@]}" -Xmx512m kafka.Kafka "$home/server.properties"
}

# The broker has registered with the controller and was let off its fence.
kafka_answers() { grep -q 'Kafka Server started' "$1/log" && (: >"/dev/tcp/127.0.0.1/$2") 2>/dev/null; }

kafka_url() { echo "127.0.0.1:$1"; }

kafka_more_variables() { echo "CQRS_TEST_KAFKA_SASL=127.0.0.1:$(cat "$1/sasl.port")"; }

kafka_stop_signals=(TERM)

kafka_version() { echo "Apache Kafka $kafka_release"; }
