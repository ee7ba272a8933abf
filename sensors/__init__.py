"""What starts runs by itself: sensors on new data, schedules by the clock."""
