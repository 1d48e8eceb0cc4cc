//go:build !kprobe_multi

package main

import (
	"fmt"
	"io"

	"github.com/cilium/ebpf"
)

func attachMulti(_ *ebpf.Program, pattern string, _ bool) (io.Closer, error) {
	return nil, lacks(fmt.Sprintf("SEC(\"kprobe.multi/%s\")", pattern))
}
