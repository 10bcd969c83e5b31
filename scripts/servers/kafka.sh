# shellcheck shell=bash disable=SC2034,SC2154 # shared with who sources this
# Apache Kafka in KRaft mode, one node. Sourced by scripts/services, which says what these functions are.

kafka_variable=CQRS_TEST_KAFKA
kafka_wanted="Java 17 or newer and Maven (Debian: apt-get install maven default-jre-headless), which bring Apache Kafka"
kafka_example="localhost:9092, where topics are created with their first message"

kafka_packages=(maven default-jre-headless)
kafka_units=()
kafka_ports=4
kafka_stop_signals=(TERM)

kafka_release=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$root/scripts/kafka/pom.xml")
# Outside of the temporary folder: it is downloaded once.
kafka_cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/cqrs/kafka-$kafka_release

# Finds a Java that is new enough.
kafka_java=
kafka_find_java() {
    local java version
    [ -z "$kafka_java" ] || return 0
    for java in "${JAVA_HOME:-}/bin/java" java /usr/lib/jvm/*/bin/java; do
        have "$java" || continue
        version=$("$java" -XX:-UsePerfData -version 2>&1)
        if [[ $version =~ version\ \"([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 17 ]; then
            kafka_java=$java
            return
        fi
    done
    return 1
}

kafka_installed() { kafka_find_java && { [ -d "$kafka_cache" ] || have mvn; }; }

# Whole or not at all, and by one at a time: Maven keeps the lock even when we are killed.
kafka_download() (
    [ ! -d "$kafka_cache" ] || return 0
    mkdir -p "${kafka_cache%/*}"
    exec 9<"${kafka_cache%/*}"
    flock 9
    [ ! -d "$kafka_cache" ] || return 0
    say "kafka: downloading Apache Kafka $kafka_release to $kafka_cache"
    part=$kafka_cache.part
    trap 'rm -rf "$part"' EXIT
    trap 'exit 1' TERM
    rm -rf "$part"
    mkdir "$part"
    MAVEN_OPTS="${MAVEN_OPTS:-} -XX:-UsePerfData" mvn -q -B -f "$root/scripts/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$part" \
        -DincludeScope=runtime </dev/null 2>&1 || refuse "Maven could not download Apache Kafka $kafka_release"
    mv -T "$part" "$kafka_cache"
)

# Half the start-up time, and a fraction of the memory, for a server of a few minutes, which leaves nothing in /tmp.
kafka_run() {
    kafka_find_java
    kafka_command=("$kafka_java" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData "-Djava.io.tmpdir=$1"
        -Dorg.slf4j.simpleLogger.showDateTime=true "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS"
        -cp "$kafka_cache/*" "${@:2}")
}

kafka_create() {
    local home=$1
    kafka_download >"$home/log"
    kafka_configure "$home" 1 2 3 4
    # One that began with a dash would be taken for an option.
    kafka_run "$home" -Xmx128m kafka.tools.StorageTool format -c "$home/server.properties" \
        -t "$(head -c 16 /dev/urandom | base64 | tr '+/' 'AA' | cut -c1-22)"
    "${kafka_command[@]}" >"$home/log" 2>&1
}

kafka_configure() {
    local home=$1 port=$2 sasl=$3 controller=$4 proxied='' proxy=''
    # It sends its clients on to where it says that it is: those who come through a proxy, to the proxy.
    if [ -n "${CQRS_KAFKA_PROXY:-}" ]; then
        proxied=,PROXIED://127.0.0.1:$5
        proxy=,PROXIED://127.0.0.1:$CQRS_KAFKA_PROXY
    fi
    cat >"$home/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=OPEN://127.0.0.1:$port,LOGIN://127.0.0.1:$sasl,CONTROLLER://127.0.0.1:$controller$proxied
advertised.listeners=OPEN://127.0.0.1:$port,LOGIN://127.0.0.1:$sasl$proxy
listener.security.protocol.map=OPEN:PLAINTEXT,LOGIN:SASL_PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=OPEN
sasl.enabled.mechanisms=PLAIN
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_cqrs="$password";
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
    local home=$1
    kafka_configure "$@"
    kafka_run "$home" -Xmx512m kafka.Kafka "$home/server.properties"
    spawn kafka "${kafka_command[@]}"
}

# It is among the brokers that it names. The request is for the brokers only: 14 bytes, Metadata (3), version 1, request
# 1, no client's name, no topics; the answer begins with its length, the request and how many brokers there are.
kafka_answers() {
    local answer
    listens kafka "$2" || return 1
    answer=$(greeted_by "$(kafka_url "$2")" 9092 \
        '\x00\x00\x00\x0e\x00\x03\x00\x01\x00\x00\x00\x01\xff\xff\x00\x00\x00\x00' | head -c 12 | od -An -tx1)
    [[ $answer == *" 00 00 00 01 00 00 00 01" ]]
}

kafka_url() { echo "127.0.0.1:$1"; }

kafka_more_variables() {
    echo "CQRS_TEST_KAFKA_SASL=127.0.0.1:$2"
    # Of use to whom has put a proxy at the port that CQRS_KAFKA_PROXY says.
    [ -z "${CQRS_KAFKA_PROXY:-}" ] || echo "CQRS_TEST_KAFKA_PROXIED=127.0.0.1:$4"
}

# The protocol does not tell.
kafka_version() { ! alive kafka || echo "Apache Kafka $kafka_release"; }
