package main

import (
	"reflect"

	"github.com/cilium/ebpf"
)

// wholeLog is the largest buffer that kernels before 5.2 take for the verifier's log (UINT_MAX >> 8).
const wholeLog = 1<<24 - 1

// keepWholeLog asks for a log that is not cut off.
//
// Up to 0.15 its size is LogSize, and without it 64 KiB. Later versions make the buffer larger until the log fits.
func keepWholeLog(options *ebpf.ProgramOptions) {
	if field := reflect.ValueOf(options).Elem().FieldByName("LogSize"); field.IsValid() && field.CanInt() {
		field.SetInt(wholeLog)
	}
}
