// The driver, to what no CUDA header is included in.
#pragma once

// CUDA's number of the newest version that the installed driver serves, as 13000; 0 where there is none.
int driver_version();
