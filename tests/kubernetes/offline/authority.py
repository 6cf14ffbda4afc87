"""The certificates and kubeconfigs by which the cluster's programs know each other."""

import base64
import json
import pathlib

from . import run

DAYS = "30"


def make(folder, url, address, service_address, node):
    """Makes an authority, the API server's certificate, the key of service accounts, and a kubeconfig
    for each program, in this folder. The administrator's comes last."""
    ca = ["-subj", "/CN=lonja-cluster", "-keyout", folder / "ca.key", "-out", folder / "ca.crt"]
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS, *ca)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names = [f"DNS:{name}" for name in names] + [f"IP:{ip}" for ip in ("127.0.0.1", address, service_address)]
    certificate(folder, "api", "/CN=kube-apiserver", f"subjectAltName={','.join(names)}")
    run("openssl", "genrsa", "-out", folder / "accounts.key", "2048")
    for name, subject in {
        "controller": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
        "node": f"/O=system:nodes/CN=system:node:{node}",
        "system": "/O=system:masters/CN=cluster-services",
        "admin": "/O=system:masters/CN=admin",
    }.items():
        certificate(folder, name, subject, "extendedKeyUsage=clientAuth")
        write_kubeconfig(folder, name, url)


def certificate(folder: pathlib.Path, name, subject, extension):
    request = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr", "-subj", subject]
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", *request)
    extensions = folder / f"{name}.ext"
    extensions.write_text(extension, encoding="utf-8")
    sign = ["-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", DAYS]
    files = ["-in", folder / f"{name}.csr", "-out", folder / f"{name}.crt", "-extfile", extensions]
    run("openssl", "x509", "-req", *sign, *files)


def write_kubeconfig(folder, name, url):
    def data(file):
        return base64.b64encode((folder / file).read_bytes()).decode()

    user = {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lonja", "cluster": {"server": url, "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "lonja-offline", "context": {"cluster": "lonja", "user": name}}],
        "current-context": "lonja-offline",
    }
    path = folder / f"{name}.conf"
    path.touch(mode=0o600)
    # JSON is YAML too.
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
