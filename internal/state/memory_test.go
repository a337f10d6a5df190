package state_test

import (
	"testing"

	"ferry/internal/state"
	"ferry/internal/state/statetest"
)

func TestMemory(t *testing.T) {
	m := state.NewMemory()
	statetest.Run(t, func(testing.TB) state.Store { return m })
}
