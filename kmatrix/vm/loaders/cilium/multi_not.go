//go:build !kprobe_multi

package main

import (
	"fmt"
	"io"

	"github.com/cilium/ebpf"
)

func attachMulti(_ *ebpf.Program, prefix, pattern string) (io.Closer, error) {
	return nil, lacks(fmt.Sprintf("SEC(\"%s/%s\")", prefix, pattern))
}
