"""Plans sweeps, schedules their trials, tracks and analyses the results. What a trial does is in `trainables`."""
