"""The files that start clusters: Ray takes them, a mock AWS gets what they promise, and they agree with one another.

The manifest for Kubernetes is held against a schema of our own of the fields that it uses; KubeRay's definition of a
RayJob, in which every field of ours is, is twenty-five thousand lines long.
"""

import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from orchestrator.capacity import capacity

ROOT = Path(__file__).parents[2]
FILES = ("cluster.yaml", "deploy/gcp.yaml", "deploy/local.yaml")
COMMANDS = ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def load(name):
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(load(name))
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("name", FILES)
def test_every_cluster_asks_for_a_token_and_shows_its_dashboard_to_no_one_else(name):
    config = load(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [c for key in COMMANDS[2:] for c in config[key] if "ray start" in c]
    assert len(starts) == 2
    assert all(re.match("export RAY_AUTH_MODE=token[; ]", start) for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


@pytest.mark.parametrize("name", FILES[1:])
def test_the_variants_do_what_cluster_yaml_does(name):
    """Apart from where things are kept, and what a provider needs beside that."""
    original, variant = load("cluster.yaml"), load(name)
    assert variant["file_mounts"] == original["file_mounts"]
    assert variant["rsync_exclude"] == original["rsync_exclude"]
    for key in COMMANDS:
        theirs = [comparable(c) for c in variant[key]]
        assert [c for c in theirs if c] == [comparable(c) for c in original[key] if comparable(c)], key


def test_sessions_use_the_region_that_the_machines_are_in():
    config = load("cluster.yaml")
    assert f" AWS_DEFAULT_REGION={config['provider']['region']}" in config["setup_commands"][0]


def comparable(command):
    """A command without places; None for what copies datasets to a machine, and for packages of one provider."""
    if " sync " in command or "storage rsync" in command or "uv pip install" in command:
        return None
    command = re.sub(" RAY_enable_autoscaler_v2=0| AWS_DEFAULT_REGION=.*", "", command)
    return re.sub(r"(s3|gs)://YOUR-BUCKET|/mnt/bottleneck|\$HOME", "PLACE", command)


@pytest.mark.parametrize("path", [*FILES, *(f"deploy/{p.name}" for p in sorted((ROOT / "deploy").glob("*.*")))])
def test_no_file_holds_a_secret(path):
    text = (ROOT / path).read_text()
    assert not re.search(
        r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|(password|secret|token)\w*\s*[:=]\s*[\"']?\w{12,}", text
    )


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").glob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_are_shell(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_sweep_may_grow_to_what_cluster_yaml_allows(aws):
    config, _ = aws
    assert config["available_node_types"]["l4"]["resources"]["GPU"] == 1  # Ray asked EC2
    assert capacity(1, 0.25, [{"CPU": 0.0}], config) == 8 * 4
    assert capacity(1, 1, [{"CPU": 0.0}], config) == 8


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """A mock AWS in which deploy/aws-account.yaml and then cluster.yaml were applied as far as `ray up` goes.

    That is all but SSH: the bootstrapped file, and one machine of each type. Gives the file and the mock's EC2 client.
    """
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # where Ray puts the SSH key
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "mock")
        patch.setenv("AWS_DEFAULT_REGION", load("cluster.yaml")["provider"]["region"])
        boto3.client("cloudformation").create_stack(
            StackName="bottleneck",
            TemplateBody=(ROOT / "deploy/aws-account.yaml").read_text(),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "ours"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield start_machines(load("cluster.yaml")), boto3.client("ec2")
    server.stop()


def start_machines(config):
    from ray.autoscaler import tags
    from ray.autoscaler._private import commands
    from ray.autoscaler._private.providers import _get_node_provider

    config = commands._bootstrap_config(config, no_config_cache=True)
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    for name, kind in config["available_node_types"].items():
        which = tags.NODE_KIND_HEAD if name == config["head_node_type"] else tags.NODE_KIND_WORKER
        provider.create_node(kind["node_config"], {tags.TAG_RAY_NODE_KIND: which, tags.TAG_RAY_USER_NODE_TYPE: name}, 1)
    return config


def machines(ec2):
    found = [machine for answer in ec2.describe_instances()["Reservations"] for machine in answer["Instances"]]
    return {tag["Value"]: machine for machine in found for tag in machine["Tags"] if tag["Key"] == "ray-user-node-type"}


def test_nothing_but_ssh_is_open_to_the_world(aws):
    _, ec2 = aws
    started = machines(ec2)
    groups = {group["GroupId"] for machine in started.values() for group in machine["SecurityGroups"]}
    (group,) = ec2.describe_security_groups(GroupIds=list(groups))["SecurityGroups"]
    assert group["GroupName"] == "bottleneck"
    to_all = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in to_all] == [("tcp", 22, 22)]
    among_us = [pair["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
    assert among_us == [group["GroupId"]]


def test_the_head_is_rented_on_demand_and_workers_on_the_spot_market(aws):
    _, ec2 = aws
    assert {name: m.get("InstanceLifecycle") for name, m in machines(ec2).items()} == {
        "head": None,
        "l4": "spot",
        "a10g": "spot",
    }


def test_machines_have_roles_not_keys_and_leave_no_disk_behind(aws):
    _, ec2 = aws
    for name, machine in machines(ec2).items():
        role = "head" if name == "head" else "worker"
        assert machine["IamInstanceProfile"]["Arn"].endswith(f"instance-profile/bottleneck-{role}")
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert [disk["Ebs"]["DeleteOnTermination"] for disk in machine["BlockDeviceMappings"]] == [True]


def test_a_worker_may_use_the_bucket_and_nothing_else(aws):
    import boto3

    del aws  # the mock is up
    iam = boto3.client("iam")
    assert not iam.list_role_policies(RoleName="bottleneck-worker")["PolicyNames"]
    (attached,) = iam.list_attached_role_policies(RoleName="bottleneck-worker")["AttachedPolicies"]
    version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
    policy = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)["PolicyVersion"]["Document"]
    allowed = [statement["Resource"] for statement in policy["Statement"]]
    assert allowed == ["arn:aws:s3:::ours", "arn:aws:s3:::ours/*"]


def group(kind, image_name):
    """The schema of a head or worker group: closed, so that a misspelt field is found."""
    container = closed(
        {
            "name": {"const": image_name},
            "image": TEXT,
            "env": {
                "type": "array",
                "items": closed({"name": TEXT, "value": TEXT}, all_of_it=True),
            },
            "envFrom": {"type": "array"},
            "resources": closed({"requests": QUANTITIES, "limits": QUANTITIES}, all_of_it=True),
            "volumeMounts": {"type": "array"},
        },
        required=["name", "image", "resources"],
    )
    pod = closed(
        {
            "serviceAccountName": TEXT,
            "tolerations": {"type": "array"},
            "containers": {"type": "array", "items": container, "minItems": 1, "maxItems": 1},
            "volumes": {"type": "array"},
        },
        required=["containers"],
    )
    template = closed({"spec": pod}, all_of_it=True)
    return closed(
        {
            "rayStartParams": {"type": "object", "additionalProperties": TEXT},
            "template": template,
            **kind,
        },
        all_of_it=True,
    )


def closed(properties, *, all_of_it=False, required=()):
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": list(properties) if all_of_it else list(required),
    }


TEXT = {"type": "string"}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[0-9.]+(m|Mi|Gi)?$"}}
COUNT = {"type": "integer", "minimum": 0}


def rayjob_schema():
    cluster = closed(
        {
            "rayVersion": TEXT,
            "authOptions": closed({"mode": {"const": "token"}}, all_of_it=True),
            "enableInTreeAutoscaling": {"const": True},
            "autoscalerOptions": closed({"version": {"enum": ["v1", "v2"]}, "idleTimeoutSeconds": COUNT}),
            "headGroupSpec": group({}, "ray-head"),
            "workerGroupSpecs": {
                "type": "array",
                "items": group(
                    {"groupName": TEXT, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT},
                    "ray-worker",
                ),
            },
        },
        all_of_it=True,
    )
    spec = closed(
        {
            "entrypoint": TEXT,
            "backoffLimit": COUNT,
            "shutdownAfterJobFinishes": {"const": True},
            "ttlSecondsAfterFinished": COUNT,
            "rayClusterSpec": cluster,
        },
        all_of_it=True,
    )
    head = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": "RayJob"}}
    return closed({**head, "metadata": closed({"name": TEXT}), "spec": spec}, all_of_it=True)


def test_the_rayjob_has_the_shape_that_kuberay_wants():
    job = load("deploy/rayjob.yaml")
    jsonschema.validate(job, rayjob_schema())
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    pending = {e["name"]: e["value"] for e in head["env"]}["TUNE_MAX_PENDING_TRIALS_PG"]
    assert int(pending) == workers["maxReplicas"] * int(limits["cpu"])


def test_the_rayjob_runs_the_ray_that_the_tests_ran_with():
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M).group(1)
    assert load("deploy/rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned
    assert f"rayproject/ray:{pinned}-py311" in (ROOT / "deploy/Dockerfile").read_text()
