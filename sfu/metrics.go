package sfu

import (
	"strings"

	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The figures of calls that have names of our own, which stay when LiveKit's change.
// Their labels have few values, all of which are written here.
var (
	figures = prometheus.NewRegistry()

	joins = prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_calls_joins_total", Help: "Participants who came into a call."})

	leaves = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_calls_leaves_total",
		Help: "Participants who left a call, by reason."}, []string{"reason"})

	failedJoins = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_calls_failed_joins_total",
		Help: "Attempts to join that failed, by reason."}, []string{"reason"})

	connections = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "holdfast_calls_connections",
		Help: "Participants whose media flows, by the way that it takes."}, []string{"transport", "family"})

	rttSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "holdfast_calls_rtt_seconds",
		Help:    "Round-trip times between participants and the relay; each participant counts every five seconds.",
		Buckets: []float64{.005, .01, .025, .05, .1, .2, .4, .8, 1.6}})

	lossRatio = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "holdfast_calls_loss_ratio",
		Help:    "Part of the packets that was lost between participants and the relay; each participant counts every five seconds.",
		Buckets: []float64{0, .005, .01, .02, .05, .1, .2, .5}}, []string{"direction"})
)

// Reasons of leaves and of failed joins.
const (
	leftSelf     = "left"     // hung up
	leftRemoved  = "removed"  // by the server: not in the room any more, or by an administrator
	leftEnded    = "ended"    // the call was ended, or the relay stops
	leftReplaced = "replaced" // the same participant joined again
	leftLost     = "lost"     // nothing came from it any more
	leftError    = "error"    // the relay and the client could not agree, or another mistake

	failedToken        = "token"          // missing, wrong or expired
	failedMedia        = "media"          // no connection for media came about
	failedNotRunning   = "not_running"    // the relay starts or stops
	failedCalls        = FullCalls        // as many calls as may be
	failedParticipants = FullParticipants // as many in the call as may be
)

func init() {
	figures.MustRegister(joins, leaves, failedJoins, connections, rttSeconds, lossRatio)
	// So that a rate can be taken of the first one, too.
	for _, r := range []string{leftSelf, leftRemoved, leftEnded, leftReplaced, leftLost, leftError} {
		leaves.WithLabelValues(r)
	}
	for _, r := range []string{failedToken, failedMedia, failedNotRunning, failedCalls, failedParticipants} {
		failedJoins.WithLabelValues(r)
	}
	for _, d := range []string{"in", "out"} {
		lossRatio.WithLabelValues(d)
	}
	noConnections()
}

func noConnections() {
	for _, p := range []Path{PathUDP, PathTCP, PathTURN, PathHTTPS} {
		for _, f := range []string{"ipv4", "ipv6"} {
			connections.WithLabelValues(string(p), f).Set(0)
		}
	}
}

// observe tells the metrics how the participants are.
func observe(people map[livekit.ParticipantID]*person) {
	noConnections()
	for _, p := range people {
		if p.path == "" {
			continue
		}
		connections.WithLabelValues(string(p.path), p.family).Inc()
		if p.rtt > 0 {
			rttSeconds.Observe(p.rtt / 1000)
		}
		if len(p.looks) < 2 {
			continue
		}
		first, last := p.looks[0], p.looks[len(p.looks)-1]
		up, down := p.links()
		if last.up.packets > first.up.packets {
			lossRatio.WithLabelValues("in").Observe(up.Loss)
		}
		if last.down.packets > first.down.packets {
			lossRatio.WithLabelValues("out").Observe(down.Loss)
		}
	}
}

// leftBy is the reason of a leave in our words.
func leftBy(r livekit.DisconnectReason) string {
	switch r {
	case livekit.DisconnectReason_CLIENT_INITIATED:
		return leftSelf
	case livekit.DisconnectReason_PARTICIPANT_REMOVED:
		return leftRemoved
	case livekit.DisconnectReason_ROOM_DELETED, livekit.DisconnectReason_ROOM_CLOSED, livekit.DisconnectReason_SERVER_SHUTDOWN:
		return leftEnded
	case livekit.DisconnectReason_DUPLICATE_IDENTITY:
		return leftReplaced
	case types.ParticipantCloseReasonPeerConnectionDisconnected.ToDisconnectReason(), livekit.DisconnectReason_SIGNAL_CLOSE, livekit.DisconnectReason_MEDIA_FAILURE:
		return leftLost
	}
	return leftError
}

// sum is a figure of ours that adds up one of LiveKit's.
type sum struct{ livekit, name, help string }

var sums = []sum{
	{"livekit_packet_total", "holdfast_calls_packets_total", "Packets of media that came in and went out."},
	{"livekit_packet_bytes", "holdfast_calls_bytes_total", "Bytes of media that came in and went out."},
	{"livekit_packet_loss_total", "holdfast_calls_packets_lost_total", "Packets of media that were lost on the way here, and on the way to those who receive."},
}

// of keeps the direction of LiveKit's figure, which is nil before the first packet.
func (s sum) of(f *dto.MetricFamily) *dto.MetricFamily {
	sums := map[string]float64{}
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "direction" {
				switch l.GetValue() {
				case "incoming":
					sums["in"] += m.GetCounter().GetValue()
				case "outgoing":
					sums["out"] += m.GetCounter().GetValue()
				}
			}
		}
	}
	kind, label := dto.MetricType_COUNTER, "direction"
	out := &dto.MetricFamily{Name: &s.name, Help: &s.help, Type: &kind}
	for _, d := range []string{"in", "out"} {
		v := sums[d]
		out.Metric = append(out.Metric, &dto.Metric{Label: []*dto.LabelPair{{Name: &label, Value: &d}}, Counter: &dto.Counter{Value: &v}})
	}
	return out
}

// Metrics gathers the relay's metrics: LiveKit's, and those of calls by names of our
// own. LiveKit registers its in Prometheus' default registry, where the Go runtime's
// stand too; this lets a registry of one's own be joined with them by
// prometheus.Gatherers without anything appearing twice.
func Metrics() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all, err := prometheus.DefaultGatherer.Gather()
		mine, err2 := figures.Gather()
		if err == nil {
			err = err2
		}
		theirs := map[string]*dto.MetricFamily{}
		out := mine
		for _, f := range all {
			if n := f.GetName(); strings.HasPrefix(n, "livekit_") || strings.HasPrefix(n, "psrpc_") {
				theirs[n] = f
				out = append(out, f)
			}
		}
		for _, s := range sums {
			out = append(out, s.of(theirs[s.livekit]))
		}
		return out, err
	})
}
