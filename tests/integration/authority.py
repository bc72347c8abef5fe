# SPDX-License-Identifier: Apache-2.0
"""An authority that gives out certificates by Debian's openssl. Each of them has ended: nobody has a clock.

It keeps its files in a folder; what it gives is what `--key` and `security.certificate` take.
"""

import os
import shutil
import subprocess

MISSING = None if shutil.which("openssl") else "openssl is not installed"
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    def __init__(self, folder):
        self.folder = folder
        self.openssl("req", "-x509", *EC, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")

    def path(self, name):
        return os.path.join(self.folder, name)

    def openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True, timeout=30)

    def certify(self, role, name):
        """The file of one that has just been made."""
        with open(self.path("names"), "w", encoding="ascii") as f:
            f.write(f"subjectAltName=URI:stablemoe:{role}:{name}\n")
        self.openssl("req", *EC, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                     "-days", "-1", "-extfile", "names", "-out", f"{name}.crt")
        return self.bundle(name, "ca.crt")

    def bundle(self, name, *parts):
        """The file of a name that has a certificate, with these beside it."""
        text = ""
        for part in (f"{name}.key", f"{name}.crt", *parts):
            with open(self.path(part), encoding="ascii") as f:
                text += f.read()
        path = self.path(f"{name}.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as f:
            f.write(text)
        return path

    def revoke(self, name):
        """A list of what has been revoked, revoked.crl, by openssl's own little database."""
        with open(self.path("ca.conf"), "w", encoding="ascii") as f:
            f.write("[ca]\ndefault_ca=a\n[a]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=1\n")
        with open(self.path("index"), "a", encoding="ascii"):
            pass
        ca = ("ca", "-config", "ca.conf", "-cert", "ca.crt", "-keyfile", "ca.key")
        self.openssl(*ca, "-revoke", f"{name}.crt")
        self.openssl(*ca, "-gencrl", "-out", "revoked.crl")
