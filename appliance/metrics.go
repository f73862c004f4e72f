package appliance

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast/homeserver/push/unifiedpush"
	"holdfast/store"
)

// metrics are what Prometheus may ask for.
type metrics struct {
	reg      *prometheus.Registry
	requests *prometheus.HistogramVec
	series   sync.Map // seriesKey -> prometheus.Observer
}

type seriesKey struct {
	pattern string
	class   int
}

func newMetrics(a *Appliance) *metrics {
	m := &metrics{reg: prometheus.NewRegistry()}
	m.requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "holdfast_http_request_seconds",
		Help:    "Time to answer HTTP requests, by route and class of status. Long polls count with their wait.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
	}, []string{"route", "status"})
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	counter := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f)
	}
	m.reg.MustRegister(
		m.requests,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_build_info", Help: "1, labelled with the version.", ConstLabels: prometheus.Labels{"version": Version}}, func() float64 { return 1 }),
		gauge("holdfast_start_time_seconds", "When the appliance was started, Unix time.", func() float64 { return float64(a.started.Unix()) }),
		counter("holdfast_http_connections_dropped_total", "Connections that were closed because too many had come from one address, or sent nothing.", func() float64 { return float64(a.dropped()) }),
		counter("holdfast_store_writes_total", "Writes that reached the disk.", func() float64 { return float64(a.db.Stats().Writes) }),
		counter("holdfast_store_commits_total", "Commits that the writes shared; each is one fsync.", func() float64 { return float64(a.db.Stats().Commits) }),
		gauge("holdfast_store_position", "Last committed position of the sync sequence.", func() float64 { return float64(a.db.Pos()) }),
	)
	phones := func(f func(s unifiedpush.Stats) float64) func() float64 {
		return func() float64 { return f(a.core.Load().hs.Phones.Counts()) }
	}
	m.reg.MustRegister(
		gauge("holdfast_push_connections", "Connections of phones that wait for notifications.", phones(func(s unifiedpush.Stats) float64 { return float64(s.Connections) })),
		gauge("holdfast_push_stored_bytes", "Size of the push messages that are kept for phones.", phones(func(s unifiedpush.Stats) float64 { return float64(s.Bytes) })),
		counter("holdfast_push_published_total", "Push messages that were taken for phones.", phones(func(s unifiedpush.Stats) float64 { return float64(s.Published) })),
		counter("holdfast_push_delivered_total", "Push messages that were given to phones.", phones(func(s unifiedpush.Stats) float64 { return float64(s.Delivered) })),
		counter("holdfast_push_refused_total", "Requests of phones and to their endpoints that were refused.", phones(func(s unifiedpush.Stats) float64 { return float64(s.Denied) })),
	)
	if a.sfu != nil {
		m.reg.MustRegister(
			gauge("holdfast_calls_rooms", "Calls that run.", func() float64 { return float64(a.sfu.Stats().Calls) }),
			gauge("holdfast_calls_turn_allocations", "Addresses that TURN holds ready for clients, used or not.", func() float64 { return float64(a.sfu.StreamStats().Relayed) }),
			gauge("holdfast_calls_turn_connections", "Connections to TURN at the HTTPS port.", func() float64 { return float64(a.sfu.StreamStats().Open) }),
			counter("holdfast_calls_turn_accepted_total", "Connections to TURN at the HTTPS port that were taken.", func() float64 { return float64(a.sfu.StreamStats().Accepted) }),
			counter("holdfast_calls_turn_refused_total", "Connections to TURN at the HTTPS port that were refused: too many at once.", func() float64 { return float64(a.sfu.StreamStats().Refused) }),
			counter("holdfast_calls_turn_expired_total", "Connections to TURN at the HTTPS port that were closed because nobody used them.", func() float64 { return float64(a.sfu.StreamStats().Expired) }),
			gauge("holdfast_calls_participants", "People in calls.", func() float64 { return float64(a.sfu.Stats().Participants) }),
			gauge("holdfast_relay_up", "1 while the call relay's process runs.", func() float64 {
				if a.sfu.Status().Running {
					return 1
				}
				return 0
			}),
			gauge("holdfast_relay_resident_memory_bytes", "Memory of the call relay's process.", func() float64 { return float64(a.sfu.Status().MemoryBytes) }),
			counter("holdfast_relay_restarts_total", "How often the call relay's process ended and was started anew.", func() float64 { return float64(a.sfu.Status().Restarts) }),
		)
	}
	return m
}

// request counts one request. The route is the pattern that it matched, so the
// number of series is bounded.
func (m *metrics) request(r *http.Request, status int, took time.Duration) {
	key := seriesKey{r.Pattern, status / 100}
	if key.pattern == "" {
		key.pattern = "other"
	}
	o, ok := m.series.Load(key)
	if !ok {
		o = m.requests.WithLabelValues(key.pattern, statusClass(status))
		m.series.Store(key, o)
	}
	o.(prometheus.Observer).Observe(took.Seconds())
}

// metricsHandler is the local listener: figures and health.
func (a *Appliance) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	all := prometheus.Gatherers{a.metrics.reg}
	if a.sfu != nil {
		all = append(all, a.sfu.Metrics())
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte("{\"status\":\"ok\"}\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		problems := a.problems(r.Context())
		w.Header().Set("Content-Type", "application/json")
		if len(problems) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			json.NewEncoder(w).Encode(map[string]any{"status": "not ready", "problems": problems})
			return
		}
		w.Write([]byte("{\"status\":\"ready\"}\n"))
	})
	return mux
}

// problems are why the appliance cannot serve at this moment.
func (a *Appliance) problems(ctx context.Context) (out []string) {
	if !a.ready.Load() {
		if a.stopping.Err() != nil {
			return []string{"it is stopping"}
		}
		return []string{"it is starting"}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := a.db.Read(ctx, func(q store.Querier) error {
		var one int
		return q.QueryRow("SELECT 1").Scan(&one)
	}); err != nil {
		out = append(out, "the database does not answer")
	}
	if a.db.Probe(ctx) != nil {
		out = append(out, "the database cannot be written; the disk may be full")
	}
	return out
}
