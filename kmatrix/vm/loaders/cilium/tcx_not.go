//go:build !tcx

package main

import (
	"fmt"
	"io"

	"github.com/cilium/ebpf"
)

func attachTCX(_ *ebpf.Program, prefix, target string, _ int) (io.Closer, error) {
	return nil, lacks(fmt.Sprintf("SEC(\"%s/%s\")", prefix, target))
}
