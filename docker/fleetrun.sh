#!/bin/sh
# The fleetrun of the images. A container gets SIGTERM before it is stopped; Paddle's own fleetrun would kill the ranks 30
# seconds later, and this one gives them the time that `vilg fleetrun --grace_period` does.
exec vilg fleetrun "$@"
