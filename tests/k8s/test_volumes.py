"""Volumes of every kind that needs no driver, as a guest sees them."""

from __future__ import annotations

from typing import Any

from .cluster import Cluster
from .kubectl import Kubectl
from .pods import container, pod
from .test_workloads import finished

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def secret(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def mount(volume: str, path: str, **more: Any) -> dict[str, Any]:
    return {"name": volume, "mountPath": path, **more}


def said(kubectl: Kubectl, name: str) -> dict[str, str]:
    """What the guest ``files`` found, by path."""
    assert finished(kubectl, name) == 0, kubectl.run("logs", name)
    found: dict[str, str] = {}
    for line in kubectl.run("logs", name).splitlines():
        path, _, text = line.partition(": ")
        found[path] = f"{found[path]} {text}" if path in found else text
    return found


def test_secrets_labels_and_tokens_are_files(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("files")
    projected = {
        "sources": [
            {"serviceAccountToken": {"path": "token", "audience": "somebody"}},
            {"secret": {"name": "s"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]
    }
    p = pod(
        "p",
        container(
            "files",
            "r /secret/password",
            "w /secret/password other",
            "r /all/token",
            "r /all/labels",
            "l /all",
            f"r {ACCOUNT}/namespace",
            f"l {ACCOUNT}",
            volumeMounts=[mount("s", "/secret", readOnly=True), mount("all", "/all")],
        ),
        volumes=[{"name": "s", "secret": {"secretName": "s"}}, {"name": "all", "projected": projected}],
    )
    p["metadata"]["labels"] = {"colour": "green"}
    kubectl.apply(secret("s", password="open sesame"), p)
    found = said(kubectl, "p")
    assert found["/secret/password"].startswith("open sesame ")  # and what its writing said
    assert "written" not in found["/secret/password"]
    assert found["/all/token"].startswith("eyJ")  # a JWT; the guest reads no further than its first 255 bytes
    assert found["/all/labels"] == 'colour="green"'
    assert sorted(found["/all"].split()) == ["labels", "password", "token"]
    assert found[f"{ACCOUNT}/namespace"] == kubectl.namespace
    assert sorted(found[ACCOUNT].split()) == ["ca.crt", "namespace", "token"]


def test_an_empty_folder_is_shared_by_the_pods_containers(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("files")
    for medium in ("", "Memory"):
        name = f"p{medium.lower()}"
        first = container("files", "m /data/sub", "w /data/sub/note from the first", name="first")
        first["volumeMounts"] = [mount("v", "/data")]
        kubectl.apply(
            pod(
                name,
                container("files", "r /other/sub/note", volumeMounts=[mount("v", "/other")]),
                initContainers=[first],
                volumes=[{"name": "v", "emptyDir": {"medium": medium}}],
            )
        )
        assert said(kubectl, name) == {"/other/sub/note": "from the first"}


def test_a_sub_path_is_a_folder_or_a_file_of_its_volume(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("files")
    first = container("files", "m /data/in", "w /data/in/note inner", "w /data/outer no", name="first")
    first["volumeMounts"] = [mount("v", "/data")]
    kubectl.apply(
        secret("s", password="open sesame", other="no"),
        pod(
            "p",
            container(
                "files",
                "l /part",
                "r /part/note",
                "r /etc/pass/word",
                "l /etc/pass",
                volumeMounts=[mount("v", "/part", subPath="in"), mount("s", "/etc/pass/word", subPath="password")],
            ),
            initContainers=[first],
            volumes=[{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s"}}],
        ),
    )
    assert said(kubectl, "p") == {
        "/part": "note",
        "/part/note": "inner",
        "/etc/pass/word": "open sesame",
        "/etc/pass": "word",
    }


def test_a_read_only_mount_cannot_be_written_to(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("files")
    kubectl.apply(
        pod(
            "p",
            container(
                "files",
                "w /both/note yes",
                "w /only/other yes",
                "r /only/note",
                volumeMounts=[mount("v", "/both"), mount("v", "/only", readOnly=True)],
            ),
            volumes=[{"name": "v", "emptyDir": {}}],
        )
    )
    found = said(kubectl, "p")
    assert found["/both/note"] == "written"
    assert found["/only/note"] == "yes"
    assert found["/only/other"] not in ("written", "yes")


def test_a_changed_config_map_is_seen_by_those_who_run(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("sleep")

    def config(value: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"key": value}}

    def seen() -> str:
        return kubectl.run("exec", "p", "--", "/bin/files.wasm", "r /config/key")

    kubectl.apply(
        config("before"),
        pod(
            "p",
            container("sleep", volumeMounts=[mount("v", "/config")]),
            volumes=[{"name": "v", "configMap": {"name": "m"}}],
        ),
    )
    kubectl.wait("pod/p", "condition=Ready")
    assert seen() == "/config/key: before\n"
    kubectl.apply(config("after"))
    cluster.eventually(lambda: "after" in seen(), "the pod sees the new value")


def test_what_is_written_to_the_termination_log_is_the_pods_message(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("files")
    kubectl.apply(pod("p", container("files", "w /dev/termination-log all done")))
    assert finished(kubectl, "p") == 0
    state = kubectl.get("pod", "p")["status"]["containerStatuses"][0]["state"]
    assert state["terminated"]["message"] == "all done"
