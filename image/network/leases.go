package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// savedLease is what is kept of a lease over a restart.
type savedLease struct {
	Address netip.Prefix `json:"address"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	// GatewayMAC tells whether this is still the same network.
	GatewayMAC string       `json:"gateway_mac,omitempty"`
	Server     netip.Addr   `json:"server"`
	DNS        []netip.Addr `json:"dns,omitempty"`
	Search     []string     `json:"search,omitempty"`
	NTP        []netip.Addr `json:"ntp,omitempty"`
	Expires    time.Time    `json:"expires,omitzero"`
}

func (s savedLease) valid() bool {
	return s.Address.IsValid() && s.Address.Addr().Is4() && usable(s.Address.Addr()) && s.Address.Bits() > 0
}

// maxLeases that are kept: ports that are no more drop out.
const maxLeases = 32

// saveEvery is how long a changed expiry alone is not written: the partition that
// can be read before the data is one that should be written rarely.
const saveEvery = 24 * time.Hour

// leaseStore keeps the last lease of each identity: the hardware address under
// which the machine is known to the DHCP server.
type leaseStore struct {
	mu     sync.Mutex
	save   func([]byte) error // nil keeps them in memory
	leases map[string]savedLease
	wrote  time.Time
	dirty  bool
}

// newLeaseStore takes a text that cannot be read as an empty one; a lease is a
// convenience that the next DHCP server's answer replaces.
func newLeaseStore(text []byte, save func([]byte) error) (*leaseStore, error) {
	s := &leaseStore{save: save, leases: map[string]savedLease{}, wrote: time.Now()}
	if len(text) == 0 {
		return s, nil
	}
	if err := s.parse(text); err != nil {
		return s, fmt.Errorf("the addresses of the last run are not known: %w", err)
	}
	return s, nil
}

func (s *leaseStore) parse(text []byte) error {
	if len(text) > MaxConfig {
		return fmt.Errorf("%d bytes are too many", len(text))
	}
	var list map[string]savedLease
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	for id, l := range list {
		if l.valid() && len(s.leases) < maxLeases {
			s.leases[id] = l
		}
	}
	return nil
}

func (s *leaseStore) get(id string) (savedLease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.leases[id]
	return l, ok
}

func (s *leaseStore) put(id string, l savedLease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, had := s.leases[id]
	s.leases[id], s.dirty = l, true
	for other, x := range s.leases {
		if len(s.leases) > maxLeases && other != id && x.Expires.Before(time.Now()) {
			delete(s.leases, other)
		}
	}
	if had && old.Address == l.Address && old.Gateway == l.Gateway && old.Server == l.Server && old.GatewayMAC == l.GatewayMAC &&
		time.Since(s.wrote) < saveEvery {
		return nil
	}
	return s.write()
}

func (s *leaseStore) forget(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.leases[id]; !ok {
		return nil
	}
	delete(s.leases, id)
	s.dirty = true
	return s.write()
}

// flush writes what saveEvery held back.
func (s *leaseStore) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return nil
	}
	return s.write()
}

func (s *leaseStore) write() error {
	s.wrote = time.Now()
	if s.save == nil {
		return nil
	}
	text, err := json.MarshalIndent(s.leases, "", "  ")
	if err != nil {
		return err
	}
	if err := s.save(append(text, '\n')); err != nil {
		return err
	}
	s.dirty = false
	return nil
}

// writeFile replaces a file whole, in a folder that is gone with the machine.
func writeFile(path string, text []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
