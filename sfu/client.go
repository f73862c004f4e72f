package sfu

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"google.golang.org/protobuf/proto"
)

// client is a participant with as little of LiveKit's protocol as a self-test
// needs: one connection to publish one track, one to receive.
type client struct {
	ws   *websocket.Conn
	way  way
	join *livekit.JoinResponse

	pub, sub *webrtc.PeerConnection
	onTrack  func(*webrtc.TrackRemote)
	pubUp    chan struct{} // closed when the publishing connection stands
	failed   chan error
	subUp    atomic.Bool
	pubOnce  sync.Once

	writing sync.Mutex
	mu      sync.Mutex
	early   map[livekit.SignalTarget][]webrtc.ICECandidateInit // came before the description
	offered []webrtc.ICECandidateInit                          // what the relay named
}

func dial(ctx context.Context, base, token string, path Path, network func(context.Context, string, string) (net.Conn, error)) (*client, error) {
	return dialBy(ctx, base, token, way{path: path}, network, nil)
}

func dialBy(ctx context.Context, base, token string, w way, network func(context.Context, string, string) (net.Conn, error), conf *tls.Config) (*client, error) {
	q := url.Values{"access_token": {token}, "protocol": {"15"}, "auto_subscribe": {"1"}, "sdk": {"go"}, "version": {"1"}}
	d := websocket.Dialer{NetDialContext: network, HandshakeTimeout: 5 * time.Second, TLSClientConfig: conf}
	sep := "?"
	if strings.Contains(base, sep) {
		sep = "&"
	}
	ws, resp, err := d.DialContext(ctx, base+sep+q.Encode(), http.Header{})
	if err != nil {
		if resp != nil {
			return nil, &refusal{resp.StatusCode}
		}
		return nil, err
	}
	c := &client{ws: ws, way: w, pubUp: make(chan struct{}), failed: make(chan error, 1), early: map[livekit.SignalTarget][]webrtc.ICECandidateInit{}}
	if dl, ok := ctx.Deadline(); ok {
		ws.SetReadDeadline(dl)
	}
	m, err := c.read()
	if err == nil && m.GetJoin() == nil {
		err = errors.New("the relay did not admit the participant")
	}
	if err != nil {
		ws.Close()
		return nil, err
	}
	c.join = m.GetJoin()
	if c.pub, err = c.peer(livekit.SignalTarget_PUBLISHER); err == nil {
		c.sub, err = c.peer(livekit.SignalTarget_SUBSCRIBER)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	c.sub.OnTrack(func(t *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		if c.onTrack != nil {
			c.onTrack(t)
		}
	})
	c.sub.OnConnectionStateChange(func(st webrtc.PeerConnectionState) {
		c.subUp.Store(st == webrtc.PeerConnectionStateConnected)
	})
	c.pub.OnConnectionStateChange(func(st webrtc.PeerConnectionState) {
		if st == webrtc.PeerConnectionStateConnected {
			c.pubOnce.Do(func() { close(c.pubUp) })
		}
	})
	return c, nil
}

func (c *client) connected() bool { return c.subUp.Load() }

func (c *client) peer(target livekit.SignalTarget) (*webrtc.PeerConnection, error) {
	var se webrtc.SettingEngine
	se.SetIncludeLoopbackCandidate(true)
	conf := webrtc.Configuration{}
	switch c.way.path {
	case PathTCP:
		se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeTCP4, webrtc.NetworkTypeTCP6})
	case PathTURN, PathHTTPS:
		conf.ICETransportPolicy = webrtc.ICETransportPolicyRelay
		if c.way.path == PathHTTPS {
			se.SetICEProxyDialer(c.way)
		}
		for _, s := range c.join.GetIceServers() {
			urls := slices.DeleteFunc(slices.Clone(s.Urls), func(u string) bool {
				return strings.HasPrefix(u, "turns:") != (c.way.path == PathHTTPS) || strings.HasPrefix(u, "turn:") && !strings.HasSuffix(u, "=udp")
			})
			if len(urls) > 0 {
				conf.ICEServers = append(conf.ICEServers, webrtc.ICEServer{URLs: urls, Username: s.Username, Credential: s.Credential})
			}
		}
	default:
		se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6})
	}
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(se)).NewPeerConnection(conf)
	if err != nil {
		return nil, err
	}
	pc.OnICECandidate(func(cand *webrtc.ICECandidate) {
		if cand == nil {
			return
		}
		if cand.Typ == webrtc.ICECandidateTypeRelay {
			c.way.seen.relayed()
		}
		b, err := json.Marshal(cand.ToJSON())
		if err == nil {
			c.send(&livekit.SignalRequest{Message: &livekit.SignalRequest_Trickle{Trickle: &livekit.TrickleRequest{CandidateInit: string(b), Target: target}}})
		}
	})
	return pc, nil
}

// publish announces an audio track and offers the connection that carries it.
func (c *client) publish() (*webrtc.TrackLocalStaticSample, error) {
	track, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "audio", "self-test")
	if err != nil {
		return nil, err
	}
	if _, err := c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly}); err != nil {
		return nil, err
	}
	if err := c.send(&livekit.SignalRequest{Message: &livekit.SignalRequest_AddTrack{AddTrack: &livekit.AddTrackRequest{
		Cid: track.ID(), Name: "self-test", Type: livekit.TrackType_AUDIO, Source: livekit.TrackSource_MICROPHONE,
	}}}); err != nil {
		return nil, err
	}
	offer, err := c.pub.CreateOffer(nil)
	if err != nil {
		return nil, err
	}
	if err := c.pub.SetLocalDescription(offer); err != nil {
		return nil, err
	}
	return track, c.send(&livekit.SignalRequest{Message: &livekit.SignalRequest_Offer{Offer: &livekit.SessionDescription{Type: "offer", Sdp: offer.SDP}}})
}

func (c *client) await(ctx context.Context, what <-chan struct{}) error {
	select {
	case <-what:
		return nil
	case err := <-c.failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no %s connection to the relay: %w", c.way.path, ctx.Err())
	}
}

// run answers the relay until the connection ends.
func (c *client) run() {
	for {
		m, err := c.read()
		if err == nil {
			err = c.handle(m)
		}
		if err != nil {
			select {
			case c.failed <- err:
			default:
			}
			return
		}
	}
}

func (c *client) handle(m *livekit.SignalResponse) error {
	switch v := m.GetMessage().(type) {
	case *livekit.SignalResponse_Offer:
		if err := c.describe(c.sub, livekit.SignalTarget_SUBSCRIBER, webrtc.SDPTypeOffer, v.Offer.GetSdp()); err != nil {
			return err
		}
		answer, err := c.sub.CreateAnswer(nil)
		if err != nil {
			return err
		}
		if err := c.sub.SetLocalDescription(answer); err != nil {
			return err
		}
		return c.send(&livekit.SignalRequest{Message: &livekit.SignalRequest_Answer{Answer: &livekit.SessionDescription{Type: "answer", Sdp: answer.SDP, Id: v.Offer.GetId()}}})
	case *livekit.SignalResponse_Answer:
		return c.describe(c.pub, livekit.SignalTarget_PUBLISHER, webrtc.SDPTypeAnswer, v.Answer.GetSdp())
	case *livekit.SignalResponse_Trickle:
		var cand webrtc.ICECandidateInit
		if err := json.Unmarshal([]byte(v.Trickle.GetCandidateInit()), &cand); err != nil {
			return err
		}
		return c.candidate(v.Trickle.GetTarget(), cand)
	case *livekit.SignalResponse_Leave:
		return fmt.Errorf("the relay ended the session: %s", v.Leave.GetReason())
	}
	return nil
}

func (c *client) describe(pc *webrtc.PeerConnection, target livekit.SignalTarget, kind webrtc.SDPType, sdp string) error {
	if c.way.instead != nil {
		var b strings.Builder
		for line := range strings.Lines(sdp) {
			if strings.HasPrefix(line, candidateLine) {
				line = moved(strings.TrimSpace(line), c.way.instead) + "\r\n"
			}
			b.WriteString(line)
		}
		sdp = b.String()
	}
	if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: kind, SDP: sdp}); err != nil {
		return err
	}
	c.mu.Lock()
	early := c.early[target]
	c.early[target] = nil
	c.mu.Unlock()
	for _, cand := range early {
		if err := pc.AddICECandidate(cand); err != nil {
			return err
		}
	}
	return nil
}

// moved is a candidate with another address.
func moved(candidate string, to net.IP) string {
	f := strings.Fields(candidate)
	if len(f) > 4 {
		f[4] = to.String()
	}
	return strings.Join(f, " ")
}

func (c *client) candidate(target livekit.SignalTarget, cand webrtc.ICECandidateInit) error {
	pc := c.pub
	if target == livekit.SignalTarget_SUBSCRIBER {
		pc = c.sub
	}
	if to := c.way.instead; to != nil {
		cand.Candidate = moved(cand.Candidate, to)
	}
	c.mu.Lock()
	c.offered = append(c.offered, cand)
	wait := pc.RemoteDescription() == nil
	if wait {
		c.early[target] = append(c.early[target], cand)
	}
	c.mu.Unlock()
	if wait {
		return nil
	}
	return pc.AddICECandidate(cand)
}

func (c *client) read() (*livekit.SignalResponse, error) {
	for {
		kind, b, err := c.ws.ReadMessage()
		if err != nil {
			return nil, err
		}
		if kind != websocket.BinaryMessage {
			continue
		}
		m := &livekit.SignalResponse{}
		return m, proto.Unmarshal(b, m)
	}
}

func (c *client) send(m *livekit.SignalRequest) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.ws.WriteMessage(websocket.BinaryMessage, b)
}

func (c *client) close() {
	c.send(&livekit.SignalRequest{Message: &livekit.SignalRequest_Leave{Leave: &livekit.LeaveRequest{Reason: livekit.DisconnectReason_CLIENT_INITIATED}}})
	for _, pc := range []*webrtc.PeerConnection{c.pub, c.sub} {
		if pc != nil {
			pc.Close()
		}
	}
	c.ws.Close()
}
