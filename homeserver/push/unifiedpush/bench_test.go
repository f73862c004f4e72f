package unifiedpush_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
)

// BenchmarkDeliver is a notification of our own pushers to a phone whose queue is full.
func BenchmarkDeliver(b *testing.B) {
	p := newPlace(b, nil)
	const phones = 50
	var bodies [][]byte
	for i := range phones {
		user := p.Login(b, fmt.Sprint("user", i))
		_, secret := p.phone(user.UserID, "")
		topic := fmt.Sprintf("upBench%08d", i)
		p.do("GET", "/"+topic+"/json?poll=1", secret, "")
		body, _ := json.Marshal(obj{"notification": obj{"event_id": "$e", "room_id": "!r", "devices": []obj{{"app_id": "a", "pushkey": p.url + "/" + topic}}}})
		bodies = append(bodies, body)
	}
	deliver := func(i int) {
		if _, _, err := p.Phones.Deliver(context.Background(), p.url+"/_matrix/push/v1/notify", bodies[i%phones]); err != nil {
			b.Error(err)
		}
	}
	for i := range 100 * phones {
		deliver(i)
	}
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			deliver(i)
		}
	})
}
