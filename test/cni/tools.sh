#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tools.sh: builds CNI's own command for trying networks, and a small CRI client, into bin/test. That needs a Go module proxy once,
# which the throw-away host has no way to. Exit status 3: there is none; the tests that need these programs are then skipped.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/../.."
version=v1.1.2 # podman 4 and containerd 1.6 bring CNI's library of these days
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -buildvcs=false"
rc=0
[[ -x bin/test/cnitool ]] || GOBIN=$PWD/bin/test go install "github.com/containernetworking/cni/cnitool@$version" || rc=3
go build -C test/cni/cri -o "$PWD/bin/test/cri" . || rc=3
exit $rc
