#!/usr/bin/env bash
# MLflow with a login, on PostgreSQL; both on this machine, and reachable from this machine alone. Run again it leaves a
# running server as it is. The login is `admin` with the password in ~/.bottleneck/mlflow_password.
#
# usage: mlflow-server.sh ARTIFACTS    a folder, or s3://bucket/prefix
set -euo pipefail
artifacts=$1
here=~/.bottleneck
umask 077
mkdir -p "$here"
cd "$here"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
as_postgres() { (cd / && as_root runuser -u postgres -- "$@"); }

command -v pg_lsclusters >/dev/null || {
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y postgresql >/dev/null
}
[ -n "$(pg_lsclusters -h)" ] || as_root pg_createcluster "$(ls /usr/lib/postgresql | sort -n | tail -n 1)" main
as_root service postgresql start >/dev/null
# Through the socket PostgreSQL knows who asks from the kernel: there is no password of the database to keep.
user=$(id -un)
as_postgres psql -qtAc "select 1 from pg_roles where rolname = '$user'" | grep -q 1 || as_postgres createuser "$user"
for database in mlflow mlflow_auth; do
    as_postgres psql -qtAc "select 1 from pg_database where datname = '$database'" | grep -q 1 ||
        as_postgres createdb --owner "$user" "$database"
done

for secret in mlflow_password mlflow_key; do # the key protects MLflow's web forms; it has to stay the same
    [ -s "$secret" ] || head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$secret"
done
cat >basic_auth.ini <<END_OF_FILE
[mlflow]
default_permission = READ
database_uri = postgresql+psycopg2:///mlflow_auth?host=/var/run/postgresql
admin_username = admin
END_OF_FILE
cat >mlflow.env <<'END_OF_FILE'
export MLFLOW_TRACKING_URI=http://127.0.0.1:5000 MLFLOW_TRACKING_USERNAME=admin
export MLFLOW_TRACKING_PASSWORD=$(cat ~/.bottleneck/mlflow_password)
END_OF_FILE

export MLFLOW_AUTH_CONFIG_PATH=$here/basic_auth.ini
MLFLOW_AUTH_ADMIN_PASSWORD=$(cat mlflow_password)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat mlflow_key)
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # seven more processes, for jobs that nobody here gives it
# One worker: there is one writer, and on a busy machine a second worker is taken for dead while it starts, and killed.
# The lock is held as long as the server is wanted, so a second one is never started; a server that ends comes back.
setsid flock --nonblock mlflow.lock bash -c '
    while :; do
        mlflow server --app-name basic-auth --host 127.0.0.1 --port 5000 --workers 1 \
            --backend-store-uri "postgresql+psycopg2:///mlflow?host=/var/run/postgresql" --artifacts-destination "$0"
        sleep 5
    done' "$artifacts" >>mlflow.log 2>&1 </dev/null &

until (exec 3<>/dev/tcp/127.0.0.1/5000) 2>/dev/null; do
    if ((SECONDS > 300)); then
        echo "MLflow does not listen on 127.0.0.1:5000 after five minutes; the end of $here/mlflow.log:" >&2
        tail -n 20 mlflow.log >&2
        exit 1
    fi
    sleep 1
done
