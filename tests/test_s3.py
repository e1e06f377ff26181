"""Runs in a bucket of an S3-compatible server on this machine: the bytes of a local run, through a kill -9 too."""

import os
import signal
import subprocess
import time

import fake_mine
import pytest
from run_files import files_of, made_of, manifest_of

from pipelines.command_line import main

s3fs = pytest.importorskip("s3fs", reason="s3:// paths need s3fs")
moto_server = pytest.importorskip("moto.server", reason="an S3-compatible server is needed: moto and flask")

BUCKET = "runs"


@pytest.fixture(scope="module")
def endpoint():
    """Address of a server that keeps its buckets in memory."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(endpoint):
    """What a user sets to reach a server of their own, as docs/inputs.md says."""
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    return {**fake_mine.environment(), **keys, "FSSPEC_S3_ENDPOINT_URL": endpoint}


@pytest.fixture
def bucket(endpoint):
    """An empty bucket."""
    files = s3fs.S3FileSystem(key="any", secret="any", endpoint_url=endpoint, skip_instance_cache=True)
    if files.exists(BUCKET):
        files.rm(BUCKET, recursive=True)
    files.mkdir(BUCKET)
    files.invalidate_cache()
    return files


@pytest.fixture
def wanted(tmp_path, monkeypatch):
    """A local run over twelve images in four units, and the shard that it mined."""
    fake_mine.use_fakes(monkeypatch.setattr)
    shard = fake_mine.write_shard(tmp_path / "a.tar", 12)
    assert main(fake_mine.arguments(shard, tmp_path / "wanted", 3)) == 0
    return shard, tmp_path / "wanted"


def run(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def local_copy(bucket, folder):
    bucket.invalidate_cache()
    bucket.get(f"{BUCKET}/run", str(folder), recursive=True)
    return folder


def count_parts(bucket):
    bucket.invalidate_cache()
    return sum("/part-" in path for path in bucket.find(f"{BUCKET}/run"))


def test_a_run_in_a_bucket_has_the_bytes_of_a_local_one(wanted, bucket, environment, tmp_path):
    shard, local = wanted
    command = fake_mine.command(*fake_mine.arguments(shard, f"s3://{BUCKET}/run", 3))
    run(command, environment)
    assert files_of(local_copy(bucket, tmp_path / "copy")) == files_of(local)
    run(command, environment)
    again = local_copy(bucket, tmp_path / "again")
    assert files_of(again) == files_of(local)
    assert set(made_of(again).values()) == {0}


def test_a_killed_run_in_a_bucket_goes_on(wanted, bucket, environment, tmp_path):
    shard, local = wanted
    command = fake_mine.command(*fake_mine.arguments(shard, f"s3://{BUCKET}/run", 3))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while count_parts(bucket) < 6:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not bucket.exists(f"{BUCKET}/run/_SUCCESS")
    run(command, environment)
    copy = local_copy(bucket, tmp_path / "copy")
    assert files_of(copy) == files_of(local)
    listed = {part["path"] for table in manifest_of(copy)["tables"].values() for part in table["parts"]}
    stored = {path.removeprefix(f"{BUCKET}/run/") for path in bucket.find(f"{BUCKET}/run") if "/part-" in path}
    assert stored == listed
