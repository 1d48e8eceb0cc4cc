//go:build !netkit

package main

import (
	"fmt"
	"io"

	"github.com/cilium/ebpf"
)

func attachNetkit(_ *ebpf.Program, target string, _ int) (io.Closer, error) {
	return nil, lacks(fmt.Sprintf("SEC(\"netkit/%s\")", target))
}
