package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// session is one object: its spec, what is loaded of it, and where that is attached.
type session struct {
	spec       *ebpf.CollectionSpec
	collection *ebpf.Collection
	target     *ebpf.Program          // what an extension of the object replaces, loaded a second time
	links      map[string][]io.Closer // by program
}

type programInfo struct {
	Section    string `json:"section"`
	Type       uint32 `json:"type"`
	AttachType uint32 `json:"attach_type"`
	Insns      int    `json:"insns"`
}

type mapInfo struct {
	Type       uint32 `json:"type"`
	KeySize    uint32 `json:"key_size"`
	ValueSize  uint32 `json:"value_size"`
	MaxEntries uint32 `json:"max_entries"`
	Flags      uint32 `json:"flags"`
}

// failure is an error in cilium/ebpf's own words, with the kernel's errno and the verifier's whole log where there are such.
type failure struct {
	Text  string   `json:"text"`
	Errno int      `json:"errno"`
	Log   []string `json:"log"`
	// Unsupported: cilium/ebpf found that the kernel, or its own version, cannot do it.
	Unsupported bool `json:"unsupported"`
}

func failed(err error) answer {
	told := &failure{Text: err.Error()}
	var number syscall.Errno
	if errors.As(err, &number) {
		told.Errno = int(number)
	}
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		told.Log = verifier.Log
	}
	told.Unsupported = errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, link.ErrNotSupported)
	return answer{Error: told}
}

func (s *session) do(asked *request) (told answer) {
	defer func() { // an object that makes cilium/ebpf panic is an outcome, and not the end of the run
		if reason := recover(); reason != nil {
			told = answer{Error: &failure{Text: fmt.Sprintf("cilium/ebpf %s panicked: %v", version, reason)}}
		}
	}()
	switch asked.Op {
	case "open":
		return s.open(asked.Object)
	case "load":
		return s.load(asked)
	case "attach":
		return s.attach(asked)
	case "detach":
		s.detach(asked.Program)
		return answer{}
	case "close":
		s.close()
		return answer{}
	}
	return failed(fmt.Errorf("unknown op %q", asked.Op))
}

func (s *session) open(path string) answer {
	file, err := os.Open(path)
	if err != nil {
		return failed(err)
	}
	defer file.Close()
	if s.spec, err = ebpf.LoadCollectionSpecFromReader(file); err != nil {
		return failed(err)
	}
	told := answer{Version: version, Programs: map[string]programInfo{}, Maps: map[string]mapInfo{}}
	for name, each := range s.spec.Programs {
		told.Programs[name] = programInfo{each.SectionName, uint32(each.Type), uint32(each.AttachType), len(each.Instructions)}
	}
	for name, each := range s.spec.Maps {
		told.Maps[name] = describe(each)
	}
	return told
}

func describe(each *ebpf.MapSpec) mapInfo {
	return mapInfo{uint32(each.Type), each.KeySize, each.ValueSize, each.MaxEntries, each.Flags}
}

// load loads the chosen programs of the object and all its maps in one go, as an application does with NewCollection.
func (s *session) load(asked *request) answer {
	spec := s.spec.Copy()
	chosen := map[string]bool{}
	for _, name := range asked.Programs {
		chosen[name] = true
	}
	for name := range spec.Programs {
		if !chosen[name] {
			delete(spec.Programs, name)
		}
	}
	var options ebpf.CollectionOptions
	keepWholeLog(&options.Programs)
	if err := asked.Settings.apply(spec, &options); err != nil {
		return failed(err)
	}
	if asked.Settings.BTF != "" {
		types, err := btf.LoadSpec(asked.Settings.BTF)
		if err != nil {
			return failed(fmt.Errorf("btf %s: %w", asked.Settings.BTF, err))
		}
		options.Programs.KernelTypes = types
	}
	if err := s.aim(spec, options); err != nil {
		return failed(err)
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		return failed(err)
	}
	s.collection = collection
	if err := asked.Settings.pin(collection); err != nil {
		return failed(err)
	}
	told := answer{Maps: map[string]mapInfo{}}
	for name, each := range collection.Programs {
		told.FDs, told.fds = append(told.FDs, owner{"program", name}), append(told.fds, each.FD())
	}
	for name, each := range collection.Maps {
		told.FDs, told.fds = append(told.FDs, owner{"map", name}), append(told.fds, each.FD())
	}
	for name, each := range spec.Maps {
		told.Maps[name] = describe(each)
	}
	return told
}

// aim gives the extensions of the object the program that they replace a function of: another program of the object.
//
// cilium/ebpf takes an extension's target from its application, which has loaded it before.
func (s *session) aim(spec *ebpf.CollectionSpec, options ebpf.CollectionOptions) error {
	for name, extension := range spec.Programs {
		if extension.Type != ebpf.Extension || extension.AttachTarget != nil {
			continue
		}
		for other, each := range s.spec.Programs {
			if each.Type == ebpf.Extension || !hasFunction(each, extension.AttachTo) {
				continue
			}
			alone := s.spec.Copy()
			for drop := range alone.Programs {
				if drop != other {
					delete(alone.Programs, drop)
				}
			}
			loaded, err := ebpf.NewCollectionWithOptions(alone, ebpf.CollectionOptions{Programs: options.Programs})
			if err != nil {
				return fmt.Errorf("program %s: its target %s: %w", name, other, err)
			}
			s.target = loaded.DetachProgram(other)
			loaded.Close()
			extension.AttachTarget = s.target
			break
		}
		if extension.AttachTarget == nil {
			return fmt.Errorf("program %s: no other program of this object has a function %s to replace", name, extension.AttachTo)
		}
	}
	return nil
}

func hasFunction(program *ebpf.ProgramSpec, name string) bool {
	for _, each := range program.Instructions {
		if each.Symbol() == name {
			return true
		}
	}
	return false
}

// close detaches first and unloads then: an attachment of before BPF links does not go with its descriptor alone.
func (s *session) close() {
	for name := range s.links {
		s.detach(name)
	}
	if s.collection != nil {
		s.collection.Close()
		s.collection = nil
	}
	if s.target != nil {
		s.target.Close()
		s.target = nil
	}
}

func (s *session) detach(name string) {
	for _, each := range s.links[name] {
		each.Close()
	}
	delete(s.links, name)
}

// settings is what the loader's contract says, resolved by the host: docs/contract.md.
type settings struct {
	Values   map[string][]write
	Maps     map[string]mapSettings
	Programs map[string]programSettings
	BTF      string
}

type write struct {
	Offset int
	Data   []byte
}

type mapSettings struct {
	Leave      bool // it is not made
	Type       *uint32
	KeySize    *uint32
	ValueSize  *uint32
	MaxEntries *uint32
	Inner      *mapInfo
	Pin        string
}

type programSettings struct {
	Type       *uint32
	AttachType *uint32
	AttachTo   string
}

func set(place *uint32, value *uint32) {
	if value != nil {
		*place = *value
	}
}

func (given settings) apply(spec *ebpf.CollectionSpec, options *ebpf.CollectionOptions) error {
	for section, writes := range given.Values {
		place := spec.Maps[section]
		if place == nil {
			return fmt.Errorf("variables: cilium/ebpf %s has no map %s of this object", version, section)
		}
		content := make([]byte, place.ValueSize)
		if len(place.Contents) > 0 {
			if had, ok := place.Contents[0].Value.([]byte); ok {
				copy(content, had)
			}
		}
		for _, each := range writes {
			if each.Offset+len(each.Data) > len(content) {
				return fmt.Errorf("variables: %s has %d bytes, too few for byte %d on", section, len(content), each.Offset)
			}
			copy(content[each.Offset:], each.Data)
		}
		place.Contents = []ebpf.MapKV{{Key: uint32(0), Value: content}}
	}
	for name, each := range given.Maps {
		place := spec.Maps[name]
		if place == nil {
			return fmt.Errorf("maps.%s: cilium/ebpf %s has no such map of this object", name, version)
		}
		if each.Leave {
			delete(spec.Maps, name)
			continue
		}
		if each.Type != nil {
			place.Type = ebpf.MapType(*each.Type)
		}
		set(&place.KeySize, each.KeySize)
		set(&place.ValueSize, each.ValueSize)
		set(&place.MaxEntries, each.MaxEntries)
		if inner := each.Inner; inner != nil {
			place.InnerMap = &ebpf.MapSpec{
				Type: ebpf.MapType(inner.Type), KeySize: inner.KeySize, ValueSize: inner.ValueSize,
				MaxEntries: inner.MaxEntries, Flags: inner.Flags,
			}
		}
		if each.Pin != "" {
			if there, err := ebpf.LoadPinnedMap(each.Pin, nil); err == nil {
				if options.MapReplacements == nil {
					options.MapReplacements = map[string]*ebpf.Map{}
				}
				options.MapReplacements[name] = there
			}
		}
	}
	for name, each := range given.Programs {
		place := spec.Programs[name]
		if place == nil {
			continue
		}
		if each.Type != nil {
			place.Type = ebpf.ProgramType(*each.Type)
		}
		if each.AttachType != nil {
			place.AttachType = ebpf.AttachType(*each.AttachType)
		}
		if each.AttachTo != "" {
			place.AttachTo = each.AttachTo
		}
	}
	return nil
}

func (given settings) pin(collection *ebpf.Collection) error {
	for name, each := range given.Maps {
		if each.Pin == "" || collection.Maps[name] == nil {
			continue
		}
		if _, err := os.Stat(each.Pin); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(each.Pin), 0o700); err != nil {
			return err
		}
		if err := collection.Maps[name].Pin(each.Pin); err != nil {
			return fmt.Errorf("maps.%s.pin: %w", name, err)
		}
	}
	return nil
}
