"""`sensorium remote check`: each way in which a remote can be wrong has its own message and remedy."""

import http.server
import json
import threading
import time

import pytest

from sensorium.commands import remote as stage
from sensorium.errors import TransferError
from sensorium.paths import Paths

LOCAL_KEY = "dvc remote modify --local weights access_key_id"


def check(project, name="weights", **options):
    stage.run(Paths(project.root), name, timeout=options.pop("timeout", 5), **options)


def refused(project, name="weights", **options):
    with pytest.raises(TransferError) as fault:
        check(project, name, **options)
    return fault.value


@pytest.fixture
def bucket(project, s3):
    """A project whose remote `weights` is an S3 bucket that works."""
    project.remote(
        "weights",
        "s3://weights/sensorium",
        endpointurl=s3.endpoint,
        verify="true",
        local_access_key_id=s3.key,
        local_secret_access_key=s3.secret,
    )
    return project


def user(s3, *actions):
    """Make a user who may do `actions` alone, and let the server check signatures; returns key and secret."""
    iam = s3.client(service="iam")
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="reader", PolicyName="some", PolicyDocument=policy)
    s3.check_credentials(True)
    return key["AccessKeyId"], key["SecretAccessKey"]


@pytest.fixture
def guarded(s3):
    """The server as one that checks signatures and policies."""
    yield s3
    s3.check_credentials(False)


def test_good_bucket_is_read_written_and_left_as_it_was(bucket, s3, capsys):
    check(bucket)
    said = capsys.readouterr().out
    for line in (
        "reach   s3://weights/sensorium at",
        "write   put and delete, 8.4 MB at",
        "what was written comes back",
    ):
        assert line in said
    assert "verify  on" in said
    assert s3.objects() == {}


def test_credentials_from_the_environment(project, guarded, monkeypatch, capsys):
    project.remote("weights", "s3://weights", endpointurl=guarded.endpoint)
    key, secret = user(guarded, "s3:*")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    check(project)
    assert "dvc remote modify weights verify true" in capsys.readouterr().out


def test_read_only_writes_nothing(bucket, s3, capsys):
    check(bucket, read_only=True)
    assert "not tried (--read-only)" in capsys.readouterr().out
    assert s3.objects() == {}


def test_no_credentials(project, s3):
    project.remote("weights", "s3://weights", endpointurl=s3.endpoint)
    fault = refused(project)
    assert "remote 'weights': no credentials" in fault.problem
    assert LOCAL_KEY in fault.remedy
    assert "AWS_ACCESS_KEY_ID" in fault.remedy


def test_half_the_credentials(project, s3):
    project.remote("weights", "s3://weights", endpointurl=s3.endpoint, local_access_key_id=s3.key)
    fault = refused(project)
    assert "missing: aws_secret_access_key" in fault.problem
    assert "dvc remote modify --local weights secret_access_key SECRET" in fault.remedy


def test_unknown_access_key(bucket, guarded):
    user(guarded, "s3:*")
    fault = refused(bucket)
    assert f"does not know access_key_id {guarded.key[:4]}…" in fault.problem
    assert guarded.key not in str(fault)
    assert LOCAL_KEY in fault.remedy


def test_wrong_secret(project, guarded, monkeypatch):
    project.remote("weights", "s3://weights", endpointurl=guarded.endpoint)
    key, _ = user(guarded, "s3:*")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", guarded.secret)
    fault = refused(project)
    assert "secret_access_key does not belong to access_key_id" in fault.problem
    assert "from AWS_ACCESS_KEY_ID" in fault.problem
    assert guarded.secret not in str(fault)


def test_no_permission_to_write(project, guarded, monkeypatch, capsys):
    project.remote("weights", "s3://weights", endpointurl=guarded.endpoint)
    key, secret = user(guarded, "s3:ListBucket", "s3:GetObject")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    fault = refused(project)
    assert "may not write to bucket 'weights'" in fault.problem
    assert "--read-only" in fault.remedy
    check(project, read_only=True)


def test_no_permission_to_list(project, guarded, monkeypatch):
    project.remote("weights", "s3://weights", endpointurl=guarded.endpoint)
    key, secret = user(guarded, "s3:PutObject")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    assert "may not list bucket 'weights'" in refused(project).problem


def test_missing_bucket(bucket, s3):
    bucket.remote("weights", url="s3://wieghts/sensorium")
    fault = refused(bucket)
    assert f"bucket 'wieghts' does not exist at {s3.endpoint}" in fault.problem
    assert "dvc remote modify weights url s3://BUCKET/PREFIX" in fault.remedy


def test_malformed_bucket_name(bucket):
    bucket.remote("weights", url="s3://no such bucket/x")
    assert "remote 'weights': url:" in refused(bucket).problem
    bucket.remote("weights", url="s3://bucket:x/y")
    assert "remote 'weights': .dvc/config:" in refused(bucket).problem


def test_hanging_endpoint(bucket, hanging_endpoint):
    bucket.remote("weights", endpointurl=f"{hanging_endpoint}")
    start = time.monotonic()
    fault = refused(bucket, timeout=0.5)
    assert time.monotonic() - start < 20
    assert f"{hanging_endpoint} gave no answer within 0.5 s" in fault.problem
    assert "dvc remote modify weights endpointurl URL" in fault.remedy


def test_unreachable_endpoint(bucket, dead_endpoint):
    bucket.remote("weights", endpointurl=f"{dead_endpoint}")
    fault = refused(bucket)
    assert f"{dead_endpoint} cannot be reached" in fault.problem
    assert "dvc remote modify weights endpointurl URL" in fault.remedy


def test_endpoint_that_is_no_address(bucket):
    bucket.remote("weights", endpointurl="storage.example.org")
    assert "storage.example.org" in refused(bucket).problem


def test_endpoint_that_is_no_s3_server(bucket, web):
    bucket.remote("weights", endpointurl=f"{web.url}")
    assert "remote 'weights'" in refused(bucket).problem


def test_unknown_profile(bucket):
    bucket.remote("weights", profile="nobody")
    fault = refused(bucket)
    assert "profile (nobody) could not be found" in fault.problem


def test_secret_in_the_tracked_file(project, s3):
    project.remote(
        "weights", "s3://weights", endpointurl=s3.endpoint, access_key_id=s3.key, secret_access_key=s3.secret
    )
    fault = refused(project)
    assert "access_key_id is in .dvc/config" in fault.problem
    assert "dvc remote modify --unset weights access_key_id" in fault.remedy
    assert s3.secret not in str(fault)


def test_unknown_remote(bucket):
    fault = refused(bucket, "wieghts")
    assert "remote 'wieghts'" in fault.problem
    assert "Choose one of: weights" in fault.remedy


def test_default_remote(bucket, capsys):
    with pytest.raises(TransferError, match=r"core\.remote"):
        check(bucket, None)
    bucket.run("dvc remote default weights")
    check(bucket, None)
    assert "remote weights" in capsys.readouterr().out


def test_no_remote_at_all(project):
    assert "dvc remote add" in refused(project, None).remedy


def test_kind_that_cannot_be_checked(project):
    project.remote("weights", "gs://weights")
    assert "only S3, HTTP and folders" in refused(project).problem


def test_option_that_dvc_refuses(project):
    config = project.root / ".dvc" / "config"
    config.write_text('[remote "weights"]\nurl = s3://weights\nendpoint = http://x\n')
    fault = refused(project)
    assert "endpoint" in fault.problem
    assert ".dvc/config" in fault.problem


def test_remote_below_another_remote(bucket, s3, capsys):
    bucket.remote("nightly", "remote://weights/nightly")
    check(bucket, "nightly")
    assert "s3://weights/sensorium/nightly" in capsys.readouterr().out


def test_folder(project, tmp_path, capsys):
    folder = tmp_path / "share"
    folder.mkdir()
    project.remote("share", str(folder))
    check(project, "share")
    assert "write   put and delete" in capsys.readouterr().out
    assert list(folder.iterdir()) == []


def test_missing_folder(project, tmp_path):
    project.remote("share", str(tmp_path / "not-mounted"))
    fault = refused(project, "share")
    assert f"{tmp_path / 'not-mounted'} is no folder" in fault.problem
    assert "Mount or create it" in fault.remedy


def test_folder_that_cannot_be_written(project):
    project.remote("share", "/sys")  # the kernel's own folder: not even root may create files there
    fault = refused(project, "share")
    assert "cannot write to /sys: Permission denied" in fault.problem
    assert "--read-only" in fault.remedy
    check(project, "share", read_only=True)


class Web(http.server.ThreadingHTTPServer):
    """A web server over a folder; every answer can be replaced by an error."""

    daemon_threads = True
    status = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def web(tmp_path):
    served = tmp_path / "www"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(served))

        def do_GET(self):
            if self.server.status:
                self.send_error(self.server.status)
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    with Web(("127.0.0.1", 0), Handler) as server:
        server.folder = served
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_web_server_is_only_read(project, web, capsys):
    project.write("weights/model.bin", b"weights" * 1000)
    project.run("dvc add -q weights/model.bin")
    project.remote("publisher", str(web.folder))
    project.run("dvc push -q -r publisher")
    project.remote("web", web.url)
    check(project, "web")
    said = capsys.readouterr().out
    assert "a stored object" in said
    assert "not tried (HTTP remotes are for pulling)" in said
    check(project, "web", every_object=True)
    assert "1 intact" in capsys.readouterr().out


def test_web_server_that_asks_for_a_password(project, web):
    project.remote("web", web.url)
    web.status = 401
    fault = refused(project, "web")
    assert "refuses access (HTTP 401)" in fault.problem
    assert "dvc remote modify --local web password PASSWORD" in fault.remedy


def test_web_server_with_a_fault(project, web):
    project.remote("web", web.url)
    web.status = 503
    assert "answers HTTP 503" in refused(project, "web").problem


def test_web_server_that_hangs_or_is_not_there(project, hanging_endpoint, dead_endpoint):
    project.remote("web", hanging_endpoint)
    assert "gave no answer within 0.5 s" in refused(project, "web", timeout=0.5).problem
    project.remote("web", dead_endpoint)
    assert "cannot be reached" in refused(project, "web").problem


def test_command_line(bucket, dead_endpoint):
    assert "ok   write" in bucket.run("sensorium remote check weights").stdout
    bucket.remote("weights", endpointurl=f"{dead_endpoint}")
    done = bucket.run("sensorium remote check weights", check=False)
    assert done.returncode == 1
    assert "Error: remote 'weights'" in done.stdout
    assert "Traceback" not in done.stdout
